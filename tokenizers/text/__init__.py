"""Texts: what a caption is worth, and how it becomes ids."""

from tokenizers.text.sentencepiece import Text, TextTokenizer, TextTokenizerConfig

__all__ = ["Text", "TextTokenizer", "TextTokenizerConfig"]
