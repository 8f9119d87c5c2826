"""MiniWorld's tokenizer: one token per word or sign, in lower case, white space dropped."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPECIAL_TOKENS = (UNK, BOS, EOS, PAD)


def build_tokenizer(texts: Iterable[str], max_length: int = 256) -> PreTrainedTokenizerFast:
    """Build a tokenizer that knows exactly the words of some texts.

    Args:
        texts: What to collect words from.
        max_length: Longest input of the model it is for, in tokens.

    Returns:
        A tokenizer that adds no special token by itself; ids are sorted by word, so that they
        depend on the set of words only.
    """
    core = Tokenizer(models.WordLevel({}, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[a-z0-9]+|."), "isolated")]
    )
    words = set()
    for text in texts:
        for piece in text.lower().split():
            words.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(piece))
    ordered = [*SPECIAL_TOKENS, *sorted(words - set(SPECIAL_TOKENS))]
    core.model = models.WordLevel({w: i for i, w in enumerate(ordered)}, unk_token=UNK)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
