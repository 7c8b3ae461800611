"""What the frozen layers of a model know: linear probes of phones, speakers, F0 and more, for ``dinosr probe``."""
