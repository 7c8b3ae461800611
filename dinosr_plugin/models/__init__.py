from . import cpc, cpc_deepcluster, dinosr, hubert  # noqa: F401
