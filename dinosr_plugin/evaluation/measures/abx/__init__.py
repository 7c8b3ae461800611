"""ABX: is a phone closer to another instance of itself than to a different phone? The protocol of ZeroSpeech 2021."""
