"""The ``ctglip`` command: one file a command, imports inside it, so that ``--help`` answers at once."""
