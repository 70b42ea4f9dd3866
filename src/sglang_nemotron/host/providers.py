"""SGLang's override providers of our architectures: what runs in the main process before any scheduler starts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.packages import HTTP_APP, MODELS, announce_omni

Provider = Callable[[Any, Any], dict[str, Any]]


def startup_door(prove_all: Callable[[], None]) -> Door:
    """The row `startup`: providers that prove every row, then check flags and checkpoint. May be asked for once."""

    def text(server_args: Any, hf_config: Any) -> dict[str, Any]:
        """Raises to refuse, returns the fields to set; a config of another family is left to SGLang alone."""
        from sglang_nemotron.config import is_nano
        from sglang_nemotron.host import ending, startup

        if is_nano(hf_config) is not None:
            return {}
        ending.watch()
        prove_all()
        return startup.resolve(server_args, hf_config, http_app=HTTP_APP)

    def omni(server_args: Any, hf_config: Any) -> dict[str, Any]:
        """As `text`, for the Omni architectures; Super Omni shares one of their names."""
        from sglang_nemotron.config_omni import is_nano_omni
        from sglang_nemotron.host import ending, startup_omni

        if is_nano_omni(hf_config) is not None:
            return {}
        startup_omni.check_libraries()
        announce_omni()
        ending.watch()
        prove_all()
        return startup_omni.resolve(server_args, hf_config, http_app=HTTP_APP)

    ours: dict[str, Provider] = {name: text if name == "NemotronHForCausalLM" else omni for name in MODELS}

    def opens() -> None:
        from sglang_nemotron.host.names.args import register_model_override

        # a broken one must show now, not when it is called
        importlib.import_module("sglang_nemotron.host.startup_omni")
        for name, provider in ours.items():
            if provider not in _registered(name):
                register_model_override(name)(provider)

    def proof() -> str | None:
        for name, provider in ours.items():
            if provider not in _registered(name):
                return f"our start-up check of {name} is not among SGLang's override providers"
        return None

    return Door("startup", "args", "checks of our architectures in the main process", opens=opens, proof=proof)


def _registered(architecture: str) -> list[Any]:
    from sglang_nemotron.host.names.args import override_providers

    return override_providers.get(architecture, [])
