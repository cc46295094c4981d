"""Trained models in use, without what trained them."""
