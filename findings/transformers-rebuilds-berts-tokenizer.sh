#!/usr/bin/env bash
# A BERT's tokenizer.json keeps upper case; transformers, reading the same folder, lowers it.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3.
# Behaviour: BertTokenizer takes the vocabulary (and added tokens) out of tokenizer.json and builds its
#   own normaliser, pre-tokeniser and post-processor from tokenizer_config.json, where do_lower_case is
#   true unless it says otherwise. The file's own normaliser counts for nothing. A folder that is read with the
#   library `tokenizers` alone (as servers in other languages do) gets other token ids.
# Source: the class BertTokenizer in transformers/models/bert/tokenization_bert.py, and
#   convert_to_native_format in transformers/tokenization_utils_tokenizers.py ("so the reconstructed
#   tokenizer matches the tokenizer.json"). With tokenizer_class PreTrainedTokenizerFast the file is read
#   as it stands.
# Seen:
#   by its file     ['[CLS]', 'Hello', '[SEP]']
#   by transformers ['[CLS]', 'hello', '[SEP]']
#   as its file     ['[CLS]', 'Hello', '[SEP]']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "Hello"]
cased = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
cased.normalizer = normalizers.BertNormalizer(lowercase=False)
cased.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
cased.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)


def folder(kind):
    made = Path(kind)
    made.mkdir()
    cased.save(str(made / "tokenizer.json"))
    (made / "config.json").write_text('{"model_type": "bert"}')
    marks = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **marks}))
    return made


def by_transformers(kind):
    tokenizer = AutoTokenizer.from_pretrained(folder(kind))
    return tokenizer.convert_ids_to_tokens(tokenizer("Hello")["input_ids"])


found = (
    cased.encode("Hello").tokens,
    by_transformers("BertTokenizer"),
    by_transformers("PreTrainedTokenizerFast"),
)
for name, tokens in zip(("by its file    ", "by transformers", "as its file    "), found):
    print(name, tokens)
expected = tuple(["[CLS]", word, "[SEP]"] for word in ("Hello", "hello", "Hello"))
sys.exit(0 if found == expected else "the behaviour is another than the one described")
PYTHON
