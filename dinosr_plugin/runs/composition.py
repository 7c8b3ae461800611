"""Hydra's composition of a config, if the plug-in is imported before it.

That is the case with ``--config-path pkg://dinosr_plugin.config.pretraining``, because Hydra imports the package that
contains the configs. With ``--config-dir`` fairseq imports the plug-in later, and none of this applies.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from ..compat.wrapping import wrap_once
from ..errors import UserError
from .settings import configs_of, similar

PACKAGE = Path(__file__).parents[1]


def help_composition():
    """Suggest names for mistyped configs and fields, and find ``common.user_dir: dinosr_plugin`` from every folder."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    def compose(previous):
        def compose_config(self, defaults, repo):
            require_config(next(one.config_path for one in defaults if one.primary), repo.get_sources())
            return previous(self, defaults, repo)

        return compose_config

    def override(previous):
        def apply(overrides, cfg):
            with suggestions(cfg):
                previous(overrides, cfg)
            if OmegaConf.select(cfg, "common.user_dir") == PACKAGE.name:
                cfg.common.user_dir = str(PACKAGE)

        return apply

    wrap_once(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
    wrap_once(ConfigLoaderImpl, "_apply_overrides_to_config", override)
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(ConfigLoaderImpl._apply_overrides_to_config)


def require_config(name: str, sources: Sequence[Any]) -> None:
    """Raise UserError if none of Hydra's sources of files has the config.

    Without this check fairseq's defaults are used, because fairseq registers them under every name.
    """
    from hydra.core.object_type import ObjectType

    files = [source for source in sources if source.scheme() in ("file", "pkg") and source.available()]
    if any(source.is_config(name) for source in files):
        return
    main = next((source for source in files if source.provider == "main"), None)
    known = main.list("", ObjectType.CONFIG) if main else []
    where = main.path if main else "--config-path"
    raise UserError(f"--config-name {name}: {where} has no such config{similar(name, known)}")


@contextmanager
def suggestions(cfg: DictConfig) -> Iterator[None]:
    """Turn Hydra's error about an unknown field of a config into a UserError."""
    from hydra.errors import ConfigCompositionException

    try:
        yield
    except ConfigCompositionException as error:
        cause = error.__cause__
        if not isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
            raise
        raise UserError(unknown_field(cfg, str(cause.full_key))) from None


def unknown_field(cfg: DictConfig, key: str) -> str:
    """What is wrong with a field that the config does not have, such as ``model.mask_probb``."""
    group, _, name = key.rpartition(".")
    present = OmegaConf.select(cfg, group) if group else cfg
    declared = {known: config for known, config in configs_of(cfg) if known == group}.get(group)
    names = [*present, *getattr(declared, "__dataclass_fields__", [])]
    if name in names:
        return f"{key}: is not in this config; add it with a plus sign: +{key}=VALUE"
    return f"{key}: there is no such field{similar(name, names)}"
