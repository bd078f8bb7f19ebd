import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

import hf_quant
from hf_quant.errors import ConfigError, ExportError
from hf_quant.export.gguf.verifying import TEXTS, libraries, run
from hf_quant.export.gguf.vocabulary import _LLAMA3, _QWEN2, SPLITS
from hf_quant.export.gguf.writing import FILE, write
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.tiny import tiny_model

gguf = pytest.importorskip("gguf", reason='needs pip install "hf-quant[gguf]"')
runs = pytest.mark.skipif(
    libraries() is None, reason="no shared libraries of llama.cpp: name their folder by HF_QUANT_LLAMA_CPP"
)
SPECIAL = ["<s>", "</s>", "<unk>"]
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
HARDER = (*TEXTS, "", " ", "a", "</s> after", "x</s>y", "12345678 1,000\t\t\n \n", "don't WE'LL it's")


def split(regex):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama-bpe": split(_LLAMA3),
    "qwen2": split(_QWEN2),
}


def wrapped(backend, **options):
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special, **options)


def byte_level(cut, **options):
    """A tokenizer that merges bytes, and is trained on a few texts."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    return wrapped(backend, **options)


def pieces():
    """A tokenizer as those that come from SentencePiece: merges of characters, and bytes for what is none."""
    trained = Tokenizer(BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(TEXTS[:2] * 3, BpeTrainer(vocab_size=120, show_progress=False))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *trained.get_vocab()]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = trained.normalizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return wrapped(backend)


def written(tokenizer, folder):
    write(tiny_model("llama", vocab_size=512), folder, tokenizer)
    return {name: field.contents() for name, field in gguf.GGUFReader(folder / FILE).fields.items()}


@pytest.mark.parametrize("name", CUTS)
def test_what_texts_are_cut_by_is_named(name, tmp_path):
    tokenizer = byte_level(CUTS[name], chat_template=CHAT)
    facts = written(tokenizer, tmp_path)
    assert facts["tokenizer.ggml.pre"] == name and name in SPLITS.values()
    assert facts["tokenizer.ggml.tokens"][: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert facts["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1] and facts["tokenizer.ggml.token_type"][-1] == 5
    assert len(facts["tokenizer.ggml.tokens"]) == 512 and facts["tokenizer.ggml.tokens"][511] == "[PAD511]"
    assert [facts[f"tokenizer.ggml.{kind}_token_id"] for kind in ("bos", "eos")] == [0, 1]
    assert facts["tokenizer.chat_template"] == CHAT
    assert facts["tokenizer.ggml.add_bos_token"] is False


@runs
@pytest.mark.parametrize("name", [*CUTS, "pieces"])
def test_llama_cpp_makes_the_same_tokens(name, tmp_path):
    tokenizer = pieces() if name == "pieces" else byte_level(CUTS[name])
    written(tokenizer, tmp_path)
    found = run(libraries(), tmp_path / FILE, [[1, 2]], 1, HARDER)["tokens"]
    assert dict(zip(HARDER, found, strict=True)) == {text: tokenizer(text)["input_ids"] for text in HARDER}


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), "it cuts texts by"),
        (lambda: byte_level(split(r"\p{L}+|\P{L}+")), "it cuts texts by"),
        (lambda: wrapped(Tokenizer(WordLevel({"<unk>": 0}, "<unk>"))), "merges no pairs"),
    ],
)
def test_other_tokenizers_are_refused_or_left_out(tokenizer, why, tmp_path):
    model = tiny_model("llama", vocab_size=512)
    with pytest.raises(ExportError, match=why + r"(.|\n)*vocabulary=False"):
        write(model, tmp_path, tokenizer())
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="true or false, not 'no'"):
        write(model, tmp_path, tokenizer(), vocabulary="no")
    for said in (False, "false"):
        write(model, tmp_path, tokenizer(), vocabulary=said)
        assert gguf.GGUFReader(tmp_path / FILE).fields["tokenizer.ggml.model"].contents() == "no_vocab"


def test_ids_that_the_embedding_lacks_are_refused(tmp_path):
    with pytest.raises(ExportError, match="128 rows"):
        write(tiny_model("llama"), tmp_path, byte_level(BYTES))


@runs
def test_an_export_is_verified_with_the_tokenizer_that_it_has(tmp_path):
    model = hf_quant.quantize(tiny_model("llama", vocab_size=512), HfQuantConfig("w4a16", rotation=0))
    done = hf_quant.export(model, "gguf", tmp_path / "there", tokenizer=byte_level(BYTES, chat_template=CHAT))
    assert done.comparison.is_right and done.comparison.figures["texts of other tokens"] == 0
    assert done.manifest["verified"]["runtime"] == "llama.cpp"
