"""When the plug-in's tasks, models and criterions are registered with fairseq."""

import os

from .wrapping import wrap_once


def register_with_user_dir():
    """fairseq does not import a ``user_dir`` whose module is already imported, and assumes that it is registered.

    This package can be imported without being registered, for example only its ``models``.
    """
    from fairseq import utils

    def make(previous):
        def import_user_module(args):
            import dinosr_plugin

            previous(args)
            user_dir = getattr(args, "user_dir", None)
            if user_dir and os.path.abspath(user_dir) in dinosr_plugin.__path__:
                dinosr_plugin.register()

        return import_user_module

    wrap_once(utils, "import_user_module", make)
