"""Models that others released, evaluated as a whole: a peer is a card in ``configs/peers`` and its encoder."""
