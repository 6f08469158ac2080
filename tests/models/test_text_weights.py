"""Text models from folders as they are released: names of weights, files of both kinds, heads, decoders, bad files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from ctglip.errors import ModelError
from ctglip.models.text import TextEncoder, TextEncoderSettings, load_text_encoder, read_text_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "liver", "spleen", "normal", "cyst", "is", "the", "a", "large"]
TEXTS = ["liver", "the spleen is large the liver is normal", "a large cyst"]
SIZES = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
PARITY = Path(__file__).parents[1] / "parity"
CONFIGS = {
    "bert": BertConfig(**SIZES, max_position_embeddings=32),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=34, pad_token_id=0),
    "longformer": LongformerConfig(**SIZES, max_position_embeddings=34, pad_token_id=0, attention_window=[4, 4]),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=8, max_position_embeddings=32),
}
CLASSES: dict[str, Any] = {
    "bert": BertForMaskedLM, "roberta": RobertaForMaskedLM, "longformer": LongformerForMaskedLM,
    "qwen3": Qwen3ForCausalLM,
}  # fmt: skip


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    single = "$A [SEP]" if kind == "qwen3" else "[CLS] $A [SEP]"  # a decoder's texts end with the token that is read
    words.post_processor = TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        padding_side="left" if kind == "qwen3" else "right", model_max_length=512,
    )  # fmt: skip


def released(folder: Path, kind: str, state: dict[str, Tensor] | None = None, file: str = "pytorch_model.bin") -> Any:
    """A folder as the hub has it; the model that its weights are of."""
    torch.manual_seed(0)
    model = CLASSES[kind](CONFIGS[kind]).eval()
    folder.mkdir(parents=True, exist_ok=True)
    CONFIGS[kind].to_json_file(folder / "config.json", use_diff=False)
    about = json.loads((folder / "config.json").read_text()) | {"model_type": CONFIGS[kind].model_type}
    (folder / "config.json").write_text(json.dumps(about))
    tokenizer(kind).save_pretrained(folder)
    write(folder / file, dict(model.state_dict()) if state is None else state)
    return model


def write(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)


def load(folder: Path, **changes: Any) -> TextEncoder:
    return load_text_encoder(TextEncoderSettings(name=str(folder), **{"max_length": 16, **changes}))


def hidden_states(model: Any, kind: str, text: str, **more: Any) -> Tensor:
    """What transformers' own model makes of a text alone."""
    ids = torch.tensor([tokenizer(kind)(text)["input_ids"]])
    with torch.no_grad():
        return model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).last_hidden_state[0]


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_weights_of_whole_models_give_what_transformers_gives(tmp_path, kind, file, caplog):
    model = released(tmp_path, kind, file=file)
    caplog.set_level(logging.INFO)
    pooling = "last" if kind == "qwen3" else "cls"
    encoder = load(tmp_path, pooling=pooling)
    found = encoder.encode(TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        more = {}
        if kind == "longformer":
            length = len(tokenizer(kind)(text)["input_ids"])
            more["global_attention_mask"] = torch.tensor([[1] + [0] * (length - 1)])
        states = hidden_states(model, kind, text, **more)
        torch.testing.assert_close(row, states[-1 if pooling == "last" else 0], atol=1e-5, rtol=1e-5)
    assert "heads that are left out" in caplog.text
    head = "cls.predictions" if kind == "bert" else "lm_head"
    assert head in caplog.text
    assert getattr(encoder.model, "pooler", None) is None


def test_longformers_first_token_sees_all_and_is_seen(tmp_path):
    released(tmp_path, "longformer")
    encoder = load(tmp_path, pooling="mean")
    long = ["liver " + "the spleen is large " * 3]
    with_global = encoder.encode(long)
    encoder.model.config.model_type = "other"
    assert not torch.allclose(encoder.encode(long), with_global, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_decoders_are_read_with_and_without_their_prefix(tmp_path, prefix):
    torch.manual_seed(0)
    state = Qwen3ForCausalLM(CONFIGS["qwen3"]).state_dict()
    names = {n.removeprefix("model."): v for n, v in state.items() if prefix or n != "lm_head.weight"}
    written = {(n if n.startswith("lm_head") else prefix + n): v for n, v in names.items()}
    released(tmp_path, "qwen3", written, "model.safetensors")
    encoder = load(tmp_path, pooling="last")
    mine = encoder.model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in names.items() if name in mine)
    assert len(mine) == 2 * 11 + 2
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.encode(TEXTS), alone, atol=1e-5, rtol=0)


def test_a_file_of_several_parts_is_read_whole_or_not_at_all(tmp_path):
    model = released(tmp_path, "bert")
    (tmp_path / "pytorch_model.bin").unlink()
    state = dict(model.state_dict())
    parts = [dict(list(state.items())[:10]), dict(list(state.items())[10:])]
    for number, part in enumerate(parts):
        write(tmp_path / f"part-{number}.safetensors", part)
    weight_map = {name: f"part-{number}.safetensors" for number, part in enumerate(parts) for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.testing.assert_close(load(tmp_path, pooling="cls").encode(TEXTS[:1])[0],
                               hidden_states(model, "bert", TEXTS[0])[0], atol=1e-5, rtol=0)  # fmt: skip
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks part-1\.safetensors"):
        load(tmp_path)


def test_a_pooler_is_kept_only_where_the_file_has_one(tmp_path):
    torch.manual_seed(0)
    state = dict(BertModel(CONFIGS["bert"]).state_dict())
    released(tmp_path, "bert", state)
    encoder = load(tmp_path)
    assert torch.equal(encoder.model.pooler.dense.weight, state["pooler.dense.weight"])
    without = {name: value for name, value in state.items() if not name.startswith("pooler")}
    released(tmp_path, "bert", without)
    assert load(tmp_path).hash == load(tmp_path).hash  # nothing in it is drawn at random
    load(tmp_path).save(tmp_path / "saved")
    assert read_text_encoder(tmp_path / "saved").hash == load(tmp_path).hash
    released(tmp_path, "bert", without | {"pooler.dense.weight": state["pooler.dense.weight"]})
    with pytest.raises(ModelError, match=r"1 missing: pooler\.dense\.bias"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.manual_seed(0)
    state = dict(BertForMaskedLM(CONFIGS["bert"]).state_dict())
    gone, odd = "bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.1.output.dense.bias"
    broken = {**state, odd: torch.zeros(3), "bert.encoder.layer.2.output.dense.bias": torch.zeros(16)}
    del broken[gone]
    released(tmp_path, "bert", broken)
    with pytest.raises(ModelError) as caught:
        load(tmp_path)
    text = str(caught.value)
    for part in ("1 missing: encoder.layer.0.attention.self.query.weight",
                 "1 of another shape: encoder.layer.1.output.dense.bias",
                 "1 without a place: bert.encoder.layer.2.output.dense.bias"):  # fmt: skip
        assert part in text, text
    assert "\n" not in text
    released(tmp_path, "bert", {"cls_token": torch.zeros(1), "blocks.0.norm1.weight": torch.zeros(4)})
    with pytest.raises(ModelError, match="missing: embeddings"):
        load(tmp_path)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_broken_and_harmful_files_and_other_folders_end_with_one_line(tmp_path):
    model = released(tmp_path, "bert")
    path = tmp_path / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    torch.save({**model.state_dict(), "hook": Runs(tmp_path / "ran")}, path)
    with pytest.raises(ModelError, match="more than tensors and plain values") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    with pytest.raises(ModelError, match=r"has no weights \(model\.safetensors or pytorch_model\.bin\)"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "resnext-of-mine", "auto_map": {"AutoModel": "code.Mine"}}')
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"somebody/something is no folder.* hf download somebody/something"):
        load(Path("somebody/something"))


@pytest.mark.parametrize(("kind", "positions"), [("bert", 32), ("longformer", 33), ("roberta", 33)])
def test_windows_end_where_positions_do(tmp_path, kind, positions):
    released(tmp_path, kind)
    encoder = load(tmp_path, max_length=64, pooling="cls")
    text = "the liver is normal " * 20
    assert encoder.tokenize([text]).shape[2] == positions == encoder.max_length
    assert f"longer than the {positions} tokens" in str(encoder.describe_long([text], "texts"))
    assert torch.isfinite(encoder.encode([text])).all()
    assert load(tmp_path, max_length=8).max_length == 8
    with pytest.raises(ModelError, match="reads 512 tokens"):
        load(tmp_path, max_length=1024)


def cxr_bert(folder: Path, **change: Any) -> dict[str, np.ndarray]:
    """CXR-BERT's folder, as released, from what its own package was seen to do."""
    folder.mkdir(exist_ok=True)
    with np.load(PARITY / "cxr_bert.npz") as file:
        golden = {name: file[name] for name in file.files}
    sizes = {"vocab_size": len(golden["words"]), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 20, "max_position_embeddings": 32, "projection_size": 6}  # fmt: skip
    own = {"model_type": "cxr-bert", "architectures": ["CXRBertModel"], "auto_map": {"AutoModel": "code.CXRBertModel"}}
    (folder / "config.json").write_text(json.dumps({**sizes, **own, **change}))
    about: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    if not change:
        about |= {"tokenizer_class": "CXRBertTokenizer", "auto_map": {"AutoTokenizer": ["code.CXRBertTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "vocab.txt").write_text("\n".join(golden["words"]) + "\n")
    (folder / "code.py").write_text("raise SystemExit('remote code')")
    state = {n.removeprefix("state."): torch.from_numpy(v) for n, v in golden.items() if n.startswith("state.")}
    torch.save(state, folder / "pytorch_model.bin")
    return golden


def test_cxr_bert_answers_as_its_package_without_its_code(tmp_path):
    golden = cxr_bert(tmp_path)
    encoder = load(tmp_path, pooling="projection")
    texts = [str(text) for text in golden["texts"]]
    ids = encoder.tokenize(texts)[:, 0]
    assert torch.equal(ids, torch.from_numpy(np.where(golden["mask"] > 0, golden["ids"], -1)))
    torch.testing.assert_close(encoder.encode(texts), torch.from_numpy(golden["projected"]), atol=1e-5, rtol=1e-5)
    assert encoder.dim == 6
    first = torch.from_numpy(golden["hidden"])[:, 0]
    torch.testing.assert_close(load(tmp_path, pooling="cls").encode(texts), first, atol=1e-5, rtol=1e-5)
    encoder.save(tmp_path / "saved")
    again = read_text_encoder(tmp_path / "saved")
    torch.testing.assert_close(again.encode(texts), encoder.encode(texts), atol=0, rtol=0)


def test_projections_are_of_models_that_have_one(tmp_path):
    cxr_bert(tmp_path, model_type="bert", architectures=["BertForMaskedLM"], auto_map={})
    with pytest.raises(ModelError, match="has no projection of its own"):
        load(tmp_path, pooling="projection")
    golden = cxr_bert(tmp_path)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    torch.save({name: v for name, v in state.items() if "projection" not in name}, tmp_path / "pytorch_model.bin")
    encoder = load(tmp_path, pooling="cls")
    assert encoder.encode([str(golden["texts"][0])]).shape == (1, 16)
    with pytest.raises(ModelError, match="has no projection of its own"):
        load(tmp_path, pooling="projection")


def test_cxr_bert_trains_what_is_read_of_it(tmp_path):
    golden = cxr_bert(tmp_path)
    texts = [str(text) for text in golden["texts"]]
    for pooling in ("cls", "projection"):
        encoder = load(tmp_path, pooling=pooling, train={"name": "full"}).train()
        encoder(encoder.tokenize(texts)).square().sum().backward()
        idle = {name for name, value in encoder.named_parameters() if value.requires_grad and value.grad is None}
        assert not idle
    last = load(tmp_path, train={"name": "last", "layers": 1})
    trained = {name for name, value in last.named_parameters() if value.requires_grad}
    assert trained
    assert all(name.startswith("model.bert.encoder.layer.1.") for name in trained)


def test_a_longformer_cut_short_is_saved_and_read_again(tmp_path):
    released(tmp_path / "whole", "longformer")
    encoder = load(tmp_path / "whole", pooling="cls", train={"name": "first", "layers": 1})
    encoder.save(tmp_path / "saved")
    again = read_text_encoder(tmp_path / "saved")
    torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "entries", "millions"),
    [
        (BertConfig(vocab_size=28996), 199, 108.31),
        (BertConfig(vocab_size=30522), 199, 109.48),
        (LongformerConfig(vocab_size=50265, max_position_embeddings=4098, type_vocab_size=1), 271, 148.66),
        (
            Qwen3Config(vocab_size=151669, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                        num_key_value_heads=8, head_dim=128, intermediate_size=3072),
            310, 595.78,
        ),
    ],
)  # fmt: skip
def test_transformers_builds_the_released_sizes(config, entries, millions):
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert len(model.state_dict()) == entries
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("change", [{"vocab_size": 2**31}, {"num_hidden_layers": 2**31}, {"intermediate_size": 2**40}])
def test_a_config_of_a_far_larger_model_is_refused_before_room_is_made(tmp_path, change):
    from tests.models.conftest import write_tiny_bert

    folder = write_tiny_bert(tmp_path / "bert")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | change))
    with pytest.raises(ModelError) as caught:
        load_text_encoder(TextEncoderSettings(name=str(folder), max_length=16))
    assert caught.value.code == "text_encoder"


def test_weights_that_ask_for_more_memory_than_there_is_are_named(tmp_path, monkeypatch):
    from ctglip.models.weights.reading import read_state

    def load(*given, **options):
        raise MemoryError

    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert read_state(tmp_path / "w.pt")["a"].tolist() == [1, 1]
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ModelError, match="more memory than there is") as caught:
        read_state(tmp_path / "w.pt")
    assert caught.value.code == "weights"
