"""Models of this plug-in and of fairseq as folders of Hugging Face's transformers, and back.

``export.py`` writes a folder that ``AutoModel.from_pretrained`` reads; ``importing.py`` makes a checkpoint of such a
folder. Both know names and settings only (``names.py``, ``config.py``, ``vocabulary.py``), so that neither imports
transformers. Log-Mel models, for which transformers has no class, are read by ``dinosr_plugin.hf``.
"""

from ... import compat  # noqa: F401  # before fairseq
