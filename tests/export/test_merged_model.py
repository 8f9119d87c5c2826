"""The prompts on which the merged model is compared."""

import json

from tera_pl.export.merged_model import TEXT, comparison_prompts


def tokenize(text, return_tensors):
    return {"input_ids": text}


def test_prompts_are_those_of_the_predictions(tmp_path):
    assert comparison_prompts(tokenize, tmp_path) == [TEXT]
    prompts = ["one\u2028two", "a\x85b", "three\nfour"]
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
    (tmp_path / "predictions.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    assert comparison_prompts(tokenize, tmp_path) == prompts
