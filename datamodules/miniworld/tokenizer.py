"""MiniWorld's tokenizer: one token per word or sign, in lower case, white space dropped."""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.miniworld.documents import END_OF_TEXT, documents

UNKNOWN, BEGIN_OF_TEXT, PADDING = "<unk>", "<s>", "<pad>"
MAX_LENGTH = 256

_SPECIAL_TOKENS = (UNKNOWN, BEGIN_OF_TEXT, END_OF_TEXT, PADDING)
# Many times what it takes to see every word; the vocabulary does not depend on the count.
_NUM_DOCUMENTS = 4000


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer that knows exactly the words of the pretraining documents.

    Ids are sorted by word, so they depend on the set of words only. It adds no special token by
    itself; decoding puts a space between any two tokens. `save_pretrained` writes what
    `AutoTokenizer` reads.

    Returns:
        The tokenizer, with `<unk>`, `<s>`, `</s>` and `<pad>` as ids 0 to 3.
    """
    core = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    words_and_signs = pre_tokenizers.Split(Regex("[a-z0-9]+|[^a-z0-9]"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), words_and_signs]
    )
    words = {
        word
        for document in documents(_NUM_DOCUMENTS, seed=0, curriculum=False)
        for word, _ in core.pre_tokenizer.pre_tokenize_str(document.replace(END_OF_TEXT, " "))
    }
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL_TOKENS, *sorted(words)])}
    core.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        bos_token=BEGIN_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
