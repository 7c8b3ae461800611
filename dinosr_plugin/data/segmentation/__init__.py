"""Long recordings, cut at pauses into segments for training.

voice.py      which windows of a recording contain speech: Silero VAD, or the energy
cutting.py    from windows of speech to segments; works on numbers only
sources.py    the recordings, and what their segments are called
recordings.py from files to a folder of segments and a table of their times
"""
