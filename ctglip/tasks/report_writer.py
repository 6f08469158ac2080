"""An organ's features to its passage: a causal language model that an organ's tokens stand before, or that looks at
them in every layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.files import atomic_path, one_line, read_json, write_json
from ctglip.inference.encoding import evaluating
from ctglip.models.text_weights import quiet, text_state
from ctglip.models.weights.matching import load_unique_state, unique_state
from ctglip.reports.wordpiece import WordPieceSettings, learn_pieces
from ctglip.tasks.head import organ_statistics
from ctglip.tasks.report_settings import ReportTaskSettings, WritingSettings

_TIDY = (
    (re.compile(r"(\d) ?\. (?=\d)"), r"\1."),
    (re.compile(r" ?([-/]) ?"), r"\1"),
    (re.compile(r"([(\[]) "), r"\1"),
    (re.compile(r" ([.,;:)\]%?])"), r"\1"),
)
_LEVELS = re.compile(r"\b([tl]\d{1,2}|ct|s1)\b")
_BATCH = 256
_GROUPS = 6


@dataclass(frozen=True)
class PassagePieces:
    """How texts become numbers and back.

    Attributes:
        tokenizer: of the ``tokenizers`` library.
        begin, end, pad: numbers of the pieces that a passage starts and ends with, and of padding.
        lower: its pieces are lower case, so that sentences are given their capitals back.
    """

    tokenizer: Tokenizer
    begin: int
    end: int
    pad: int
    lower: bool = False

    def encode(self, texts: Sequence[str], length: int) -> tuple[Int[Tensor, "n l"], Float[Tensor, " n"]]:
        """Passages with beginning and end, at most so many pieces, padded; and how many pieces follow the beginning."""
        found = [self.tokenizer.encode(text, add_special_tokens=False).ids[: length - 2] for text in texts]
        rows = [[self.begin, *ids, self.end] for ids in found]
        width = max(map(len, rows), default=2)
        padded = [[*row, *[self.pad] * (width - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.long), torch.tensor([len(row) - 1.0 for row in rows])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some pieces, up to the first end."""
        piece_ids = []
        for number in ids:
            if number in (self.end, self.pad):
                break
            piece_ids.append(int(number))
        text = " ".join(self.tokenizer.decode(piece_ids).split())
        return _with_capitals(text) if self.lower else text


def _with_capitals(text: str) -> str:
    """A lower-case text of a wordpiece vocabulary as sentences."""
    for pattern, tidy in _TIDY:
        text = pattern.sub(tidy, text)
    text = _LEVELS.sub(lambda found: found[0].upper(), text)
    return re.sub(r"(^|[.!?] )(\w)", lambda found: found[1] + found[2].upper(), text)


def pieces_for(settings: ReportTaskSettings, texts: Sequence[str]) -> PassagePieces:
    """The pieces of the language model: its own, or a wordpiece vocabulary of some passages.

    Raises:
        ModelError: code ``language_model``: its tokeniser cannot be loaded, or has no end of a text.
    """
    from transformers import AutoTokenizer

    source = settings.language.name
    if source is None:
        words = learn_pieces(texts, WordPieceSettings(vocabulary=settings.language.vocabulary))
        end = words.tokenizer.token_to_id("[SEP]")
        assert end is not None
        return PassagePieces(words.tokenizer, words.begin, end, words.pad, lower=True)
    try:
        with quiet():
            found: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer, end = found.backend_tokenizer, found.eos_token_id
    except Exception as error:  # transformers and tokenizers raise anything
        raise _not_loaded(source, error) from error
    if end is None:
        raise _not_loaded(source, ValueError("its tokeniser has no token for the end of a text"))
    begin, pad = (end if one is None else one for one in (found.bos_token_id, found.pad_token_id))
    return PassagePieces(tokenizer, begin, end, pad)


def named_language(source: str) -> nn.Module:
    """A causal language model of a folder, or of the hub's copy on this machine.

    Raises:
        ModelError: code ``language_model``: there is none that can be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            model_class: Any = type(AutoModelForCausalLM.from_config(config, trust_remote_code=False))
            return model_class.from_pretrained(None, config=config, state_dict=text_state(source), dtype=torch.float32)
    except Exception as error:  # transformers raises anything
        raise _not_loaded(source, error) from error


def _not_loaded(source: str, why: Exception) -> ModelError:
    return ModelError(
        f"The language model {source!r} cannot be loaded: {one_line(why)}.",
        code="language_model",
        fix="Name a folder of a causal language model of transformers (config.json, tokeniser, weights), or a hub's "
        "that is on this machine.",
    )


def small_language(pieces: PassagePieces, settings: ReportTaskSettings) -> nn.Module:
    """A small GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    language = settings.language
    if language.width % language.heads:
        raise ModelError(
            f"report.language.width {language.width} is no multiple of its heads, {language.heads}.",
            code="language_model",
            fix="Set one of them so that it is.",
        )
    config = GPT2Config(
        vocab_size=pieces.tokenizer.get_vocab_size(),
        n_positions=settings.length + settings.tokens + 1,
        n_embd=language.width,
        n_layer=language.layers,
        n_head=language.heads,
        activation_function="gelu",
        resid_pdrop=language.dropout,
        embd_pdrop=language.dropout,
        attn_pdrop=language.dropout,
        bos_token_id=pieces.begin,
        eos_token_id=pieces.end,
        pad_token_id=pieces.pad,
        add_cross_attention=settings.condition == "cross_attention",
    )
    return GPT2LMHeadModel(config)


class OrganWriter(nn.Module):
    """Writes passages about organs.

    Args:
        dim: width of the organs' features.
        organs: names by number.
        pieces: how texts become numbers.
        language: a causal language model of transformers.
        settings: of the task.

    Attributes:
        mean, std: features are standardised by these buffers.

    Raises:
        ModelError: code ``language_model``: cross-attention with a language model that has none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, dim: int, organs: Sequence[str], pieces: PassagePieces, language: nn.Module, settings: ReportTaskSettings
    ) -> None:
        super().__init__()
        self.organs, self.pieces, self.settings = tuple(organs), pieces, settings
        self.language: Any = language
        width = self.language.get_input_embeddings().embedding_dim
        self.register_buffer("mean", torch.zeros(len(organs), dim))
        self.register_buffer("std", torch.ones(dim))
        self.organ = nn.Embedding(len(organs), width)
        self.read = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, settings.tokens * width))
        nn.init.normal_(self.organ.weight, std=0.02)
        self.cross_attention = settings.condition == "cross_attention"
        if self.cross_attention and not getattr(self.language.config, "add_cross_attention", False):
            raise ModelError(
                f"The language model {settings.language.name!r} has no cross-attention.",
                code="language_model",
                fix="Set report.condition to prefix.",
            )
        if settings.language.name is not None:
            self.language.requires_grad_(settings.language.train == "full")

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"]) -> None:
        """Take each organ's mean, and the standard deviation around it over all organs, from some features."""
        mean, std = organ_statistics(features, organ, len(self.mean))
        self.mean.copy_(mean)
        self.std.copy_(std)

    def tokens(self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"]) -> Float[Tensor, "n k w"]:
        """What stands for organs in the language model: one token for which it is, then those of its features."""
        read = self.read((features.float() - self.mean[organ]) / self.std)
        named = self.organ(organ)[:, None]
        return torch.cat([named, read.unflatten(1, (self.settings.tokens, -1))], dim=1)

    def forward(
        self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"], texts: Int[Tensor, "n l"]
    ) -> Float[Tensor, " n"]:
        """Negative log-likelihood of each passage in nats."""
        ends = texts == self.pieces.end
        ends[:, 0] = False  # of vocabularies that begin and end alike
        known = ends.cumsum(1) - ends.long() == 0  # padding may be the end once more
        lengths, organ_tokens = known.sum(1), self.tokens(features, organ)
        lost = organ_tokens.new_zeros(len(texts))
        for rows in lengths.argsort().chunk(_GROUPS):  # alike in length: padding is counted too
            width = int(lengths[rows].max())
            logits = self._logits(organ_tokens[rows], texts[rows, : width - 1], known[rows, : width - 1])
            each = F.cross_entropy(logits.float().transpose(1, 2), texts[rows, 1:width], reduction="none")
            lost = lost.index_add(0, rows, (each * known[rows, 1:width]).sum(1))
        return lost

    def _logits(
        self, organ_tokens: Float[Tensor, "n k w"], words: Int[Tensor, "n l"], known: Bool[Tensor, "n l"]
    ) -> Float[Tensor, "n l v"]:
        """What is expected behind each piece."""
        if self.cross_attention:
            found = self.language(input_ids=words, attention_mask=known.long(), encoder_hidden_states=organ_tokens)
            return found.logits
        embedded = torch.cat([organ_tokens, self.language.get_input_embeddings()(words)], dim=1)
        there = torch.cat([known.new_ones(organ_tokens.shape[:2]), known], dim=1)
        return self.language(inputs_embeds=embedded, attention_mask=there.long()).logits[:, organ_tokens.shape[1] :]

    def write(
        self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"], writing: WritingSettings
    ) -> list[list[str]]:
        """Passages of organs: one each, or several, the best first, where one is chosen among them."""
        several = writing.candidates if writing.constrain != "none" else 1
        found: list[list[str]] = []
        with evaluating(self), torch.random.fork_rng(devices=[]):
            torch.manual_seed(writing.seed)
            for start in range(0, len(features), _BATCH):
                some = slice(start, start + _BATCH)
                ids = self._generate(self.tokens(features[some], organ[some]), writing, several)
                texts = [self.pieces.decode(row) for row in ids.tolist()]
                found += [list(dict.fromkeys(texts[n : n + several])) for n in range(0, len(texts), several)]
        return found

    def _generate(
        self, organ_tokens: Float[Tensor, "n k w"], writing: WritingSettings, several: int
    ) -> Int[Tensor, "m l"]:
        """Numbers of the pieces of ``several`` passages for each organ."""
        sampled = writing.temperature > 0
        how: dict[str, Any] = {
            "max_new_tokens": self.settings.length - 1,
            "num_beams": 1 if sampled and writing.beams == 1 else max(writing.beams, several),
            "num_return_sequences": several,
            "do_sample": sampled,
            "pad_token_id": self.pieces.pad,
            "eos_token_id": self.pieces.end,
        }
        if sampled:
            how["temperature"] = writing.temperature
        begin = torch.full((len(organ_tokens), 1), self.pieces.begin, device=organ_tokens.device)
        with quiet():
            if self.cross_attention:
                ids = self.language.generate(
                    input_ids=begin, attention_mask=torch.ones_like(begin), encoder_hidden_states=organ_tokens, **how
                )
                return ids[:, 1:]
            words = torch.cat([organ_tokens, self.language.get_input_embeddings()(begin)], dim=1)
            there = torch.ones(words.shape[:2], dtype=torch.long, device=words.device)
            return self.language.generate(inputs_embeds=words, attention_mask=there, **how)


def build_writer(dim: int, organs: Sequence[str], pieces: PassagePieces, settings: ReportTaskSettings) -> OrganWriter:
    """A writer before its first step.

    Args:
        dim: width of the organs' features.
        organs: names by number.
        pieces: of its language model.
        settings: of the task.
    """
    name = settings.language.name
    language = small_language(pieces, settings) if name is None else named_language(name)
    return OrganWriter(dim, organs, pieces, language, settings)


def save_writer(writer: OrganWriter, folder: Path) -> None:
    """Write all that ``load_writer`` needs: settings, weights, the language model's config and its vocabulary."""
    pieces = writer.pieces
    about = {
        "report": writer.settings.model_dump(mode="json"),
        "organs": list(writer.organs),
        "dim": writer.mean.shape[1],
        "language": writer.language.config.to_dict(),
        "pieces": {"begin": pieces.begin, "end": pieces.end, "pad": pieces.pad, "lower": pieces.lower},
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        state = {name: value.detach().cpu().contiguous() for name, value in unique_state(writer).items()}
        save_file(state, temporary / "report.safetensors")
        pieces.tokenizer.save(str(temporary / "tokenizer.json"))
        write_json(temporary / "report.json", about)


def load_writer(folder: Path) -> OrganWriter:
    """What ``save_writer`` wrote, in evaluation mode.

    Raises:
        ModelError: code ``no_reports``: the folder holds no writer; ``damaged_model``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (folder / "report.json").is_file():
        raise ModelError(
            f"{folder.parent} writes no reports: it holds no {folder.name}/report.json.",
            code="no_reports",
            fix="Train one: ctglip finetune RUN STORE OUT --config finetune/ct_report, and name OUT.",
        )
    try:
        about = read_json(folder / "report.json")
        language = dict(about["language"])
        config = AutoConfig.for_model(language.pop("model_type"), **language)
        with quiet():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        pieces = PassagePieces(Tokenizer.from_file(str(folder / "tokenizer.json")), **about["pieces"])
        settings = ReportTaskSettings.model_validate(about["report"])
        writer = OrganWriter(about["dim"], about["organs"], pieces, model, settings)
        load_unique_state(writer, load_file(folder / "report.safetensors"))
    except Exception as error:  # tokenizers and transformers raise anything
        raise ModelError(
            f"{folder} is damaged: {one_line(error)}.", code="damaged_model", fix="Copy it again, or train it again."
        ) from error
    return writer.eval()
