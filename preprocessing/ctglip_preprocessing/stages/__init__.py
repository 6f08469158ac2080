"""The stages a study goes through, each a function from Case to Case that knows no Ray."""
