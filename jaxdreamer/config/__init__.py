"""Configuration: frozen dataclasses, presets as data, and validation that names what is wrong. Imports no jax.

A preset is a name, or several joined by commas where later ones win: ``dreamer_v2,small``. A setting is named by its
group and field, ``model.deter_size``; as no field name occurs in two groups, the field alone, ``deter_size``, is enough.
"""

from jaxdreamer.config.environment import (
    NO_ENV,
    CameraOptions,
    DrawingOptions,
    EnvConfig,
    Options,
    options_of,
    replace_env,
    with_metadata,
)
from jaxdreamer.config.files import load, read_settings, to_yaml
from jaxdreamer.config.parse import (
    difference,
    fields,
    from_dict,
    kind_of,
    preset,
    presets_of,
    replace,
    resolve_name,
    to_dict,
    types,
)
from jaxdreamer.config.presets import ABOUT, PRESETS
from jaxdreamer.config.schema import (
    BehaviorConfig,
    Config,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ReplayConfig,
    RunConfig,
)
from jaxdreamer.config.settings import hints
from jaxdreamer.errors import ConfigError, MissingExtra, nearest
