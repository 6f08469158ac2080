"""``ctglip serve``: the models in a browser. A scan is dropped on a page, read in a process of its own, and asked.

``serve`` runs the server, ``create_app`` makes the web application alone, ``ServeClient`` talks to one in Python. All
that is uploaded lies in one private folder (``ServeFolder``), and goes when it is deleted or its time is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.serve.app import create_app as create_app
    from ctglip.serve.client import ServeClient as ServeClient
    from ctglip.serve.folder import ServeFolder as ServeFolder
    from ctglip.serve.jobs import JobStore as JobStore
    from ctglip.serve.server import ServeOptions as ServeOptions
    from ctglip.serve.server import serve as serve
    from ctglip.serve.uploads import UploadLimits as UploadLimits

__getattr__, __dir__ = public_names(__name__)
