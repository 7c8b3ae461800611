"""Another voice for the same words: formants, pitch and equaliser, as transforms of views."""
