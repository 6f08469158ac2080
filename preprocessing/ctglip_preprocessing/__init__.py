"""Preprocessing of cohorts on Ray: thin stages over the rooms of ctglip."""
