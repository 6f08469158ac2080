"""Words as pieces: a vocabulary of one's own, learned from the cohort's reports (ECAMP), or any tokeniser of the hub.

Knows no torch: ids are numpy integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFKD, Lowercase, StripAccents
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.files import atomic_path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]", "[SEP]")
"""In ECAMP's order: their ids are 0 to 4."""
_OTHERS = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[MASK]": "<mask>"}
_FILE = "tokenizer.json"


class WordPieceSettings(Settings):
    """Which pieces.

    Attributes:
        name: a Hugging Face tokeniser (name, folder, or ``tokenizer.json``); None learns one from the reports.
        vocabulary: pieces of a learned one at most (ECAMP: 30,000).
        least: times that a pair of pieces must be seen to become one.
        length: pieces of a text, the first being [CLS]; longer ones are cut, shorter ones padded (ECAMP: 256).
    """

    name: str | None = None
    vocabulary: int = Field(default=30_000, ge=64)
    least: int = Field(default=2, ge=1)
    length: int = Field(default=256, ge=8)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.name is None else dict.fromkeys(("vocabulary", "least"), "the tokeniser of name is taken")


@dataclass(frozen=True)
class Pieces:
    """One text as pieces.

    Attributes:
        ids: [CLS], the pieces, then padding.
        inside: a piece goes on with the word of the piece before.
    """

    ids: Int[np.ndarray, " l"]
    inside: Bool[np.ndarray, " l"]


class WordPieces:
    """A vocabulary.

    Args:
        tokenizer: what cuts texts.
        length: pieces of a text.

    Raises:
        ModelError: code ``tokenizer``: it has no token for padding, beginnings, masks or unknown words.
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.pad, self.unknown, self.begin, self.mask = (self._special(name) for name in _OTHERS)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, text: str) -> Pieces:
        """A text's pieces."""
        found = self.tokenizer.encode(text, add_special_tokens=False)
        ids, words = found.ids[: self.length - 1], found.word_ids[: self.length - 1]
        inside = [False] + [word is not None and word == before for before, word in pairwise(words)]
        empty = self.length - 1 - len(ids)
        return Pieces(
            np.array([self.begin, *ids, *[self.pad] * empty], dtype=np.int64),
            np.array([False, *inside[: len(ids)], *[False] * empty]),
        )

    def ids_of(self, words: str) -> tuple[int, ...]:
        """The pieces of some words, with nothing around them."""
        return tuple(self.tokenizer.encode(words, add_special_tokens=False).ids)

    def words(self, ids: Iterable[int]) -> str:
        """Pieces as a text, padding left out."""
        return self.tokenizer.decode([int(number) for number in ids if number != self.pad], skip_special_tokens=False)

    def save(self, folder: Path) -> Path:
        """Write ``tokenizer.json`` by rename; ``read_pieces`` reads it back."""
        with atomic_path(folder / _FILE) as temporary:
            self.tokenizer.save(str(temporary))
        return folder / _FILE

    def _special(self, name: str) -> int:
        found = [self.tokenizer.token_to_id(one) for one in (name, _OTHERS[name])]
        number = next((one for one in found if one is not None), None)
        if number is None:
            raise ModelError(
                f"The tokeniser has neither {name} nor {_OTHERS[name]}.",
                code="tokenizer",
                fix="Choose one that was made for masked words.",
            )
        return number


def learn_pieces(texts: Sequence[str], settings: WordPieceSettings) -> WordPieces:
    """A WordPiece vocabulary of some texts: lower case, NFKD, no accents. The same texts give the same pieces.

    Args:
        texts: reports of the split ``train``.
        settings: its size.
    """
    tokenizer = _tokenizer({})
    assert tokenizer.normalizer is not None
    letters = sorted(set("".join(tokenizer.normalizer.normalize_str(text) for text in texts)) - set(" \t\r\n"))
    alphabet = [*letters, *(f"##{letter}" for letter in letters)]
    trainer = WordPieceTrainer(
        vocab_size=settings.vocabulary,
        min_frequency=settings.least,
        special_tokens=[*SPECIAL, *alphabet],  # named, or the library numbers them (and breaks ties) by chance
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return WordPieces(_tokenizer(tokenizer.get_vocab()), settings.length)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    made: Any = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106  (no password)
    made.normalizer = Normalizers([NFKD(), StripAccents(), Lowercase()])
    made.pre_tokenizer = BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    if vocabulary:
        made.add_special_tokens(list(SPECIAL))
    return made


def read_pieces(name: str | Path, length: int) -> WordPieces:
    """A tokeniser from a folder, a ``tokenizer.json``, or by its name on the hub.

    Raises:
        ModelError: code ``tokenizer``: there is none that could be loaded.
    """
    path = Path(name)
    path = path / _FILE if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(str(name))
    except Exception as error:  # the library raises bare exceptions
        raise ModelError(
            f"No tokeniser {str(name)!r} can be loaded: {error}",
            code="tokenizer",
            fix="Name a folder with a tokenizer.json, or leave it out to learn one from the reports.",
        ) from error
    return WordPieces(tokenizer, length)


def pieces_for(settings: WordPieceSettings, texts: Sequence[str], folder: Path) -> WordPieces:
    """The pieces of a run: those that are kept in its folder, else as the settings say, then kept there.

    Args:
        settings: which.
        texts: what a vocabulary is learned from.
        folder: of the run.
    """
    if (folder / _FILE).is_file():
        return read_pieces(folder, settings.length)
    found = learn_pieces(texts, settings) if settings.name is None else read_pieces(settings.name, settings.length)
    found.save(folder)
    return found
