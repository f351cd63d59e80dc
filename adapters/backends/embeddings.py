"""The ``embeddings`` backend: real sentence vectors on the CPU, from the weights in the ``wordllama`` wheel.

The vector of a text is the mean of its tokens' vectors, scaled to length one. Only the wheel's data files are used: its
package would bring a machine-learning stack along.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlock.adapters.grpc.calls import Generation, Piece, Vector
from interlock.domain.errors import BackendFailed

from .base import CannotDo, WrongInput, number_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = Path("weights", "l2_supercat_256.safetensors")
TOKENIZER = Path("tokenizers", "l2_supercat_tokenizer_config.json")
_TENSOR = "embedding.weight"
_INLINE_CHARS = 4096
"""A text up to this length is done in well under a millisecond; a longer one goes to a thread."""


def wheel_folder() -> Path:
    """Where the ``wordllama`` wheel lies; raises BackendFailed when it is not installed. Imports nothing of it."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise BackendFailed("the wordllama wheel is not installed: pip install 'interlock[embeddings]'")
    return Path(spec.submodule_search_locations[0])


class EmbeddingsBackend:
    """Real vectors. Options: ``dimensions`` = 64, 128 or 256 (the weights are made to be cut there)."""

    def __init__(self) -> None:
        self._weights: NDArray[np.float32] | None = None
        self._tokenizer: Any = None

    @property
    def memory(self) -> int:
        """The bytes of the weights in memory."""
        return 0 if self._weights is None else int(self._weights.nbytes)

    async def load(self, model: str, options: Mapping[str, str], folder: Path | None) -> None:
        """Read weights and tokenizer; about a tenth of a second."""
        dimensions = int(number_option(options, "dimensions", 256))
        if dimensions not in (64, 128, 256):
            raise BackendFailed(f"option dimensions: {dimensions} is none of 64, 128, 256")
        self._weights, self._tokenizer = await asyncio.to_thread(_read, dimensions)

    async def free(self) -> None:
        """Drop weights and tokenizer."""
        self._weights = self._tokenizer = None

    async def predict(self, wanted: Generation) -> AsyncIterator[Piece]:
        """Not offered."""
        raise CannotDo("the embeddings backend makes vectors, not text")
        yield  # makes this an iterator, as the protocol wants

    async def embed(self, text: str) -> Vector:
        """The mean of the tokens' vectors, at length one."""
        if len(text) > _INLINE_CHARS:
            return await asyncio.to_thread(self._embed, text)
        return self._embed(text)

    async def tokenize(self, text: str) -> list[int]:
        """Token ids, without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, text: str) -> Vector:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids or self._weights is None:
            raise WrongInput("there is nothing to embed: the text is empty")
        mean = self._weights[ids].mean(axis=0)
        length = float((mean @ mean) ** 0.5) or 1.0
        return Vector(tuple((mean / length).tolist()), len(ids))


def _read(dimensions: int) -> tuple[NDArray[np.float32], Any]:
    """The weights, cut to ``dimensions``, and the tokenizer."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import numpy
        from safetensors import safe_open
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BackendFailed(f"{error.name} is not installed: pip install 'interlock[embeddings]'") from None
    folder = wheel_folder()
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            weights = file.get_tensor(_TENSOR)[:, :dimensions].astype(numpy.float32)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the libraries raise plain Exception for a missing or torn file
        raise BackendFailed(f"the weights in {folder} cannot be read: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return weights, tokenizer
