"""What this family of models is called: architectures, model types, dtypes. One table; imports nothing."""

from __future__ import annotations

TEXT = "NemotronHForCausalLM"
# as published, and as transformers saves it
OMNI = ("NemotronH_Nano_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3")
ARCHITECTURES = (TEXT, *OMNI)

TEXT_MODEL_TYPES = ("nemotron_h",)
# as published, and as transformers saves it; Super Omni shares the second
OMNI_MODEL_TYPES = ("NemotronH_Nano_Omni_Reasoning_V3", "nemotron_h_omni")
# the keys under which a multimodal config holds its text config, published name first
TEXT_KEYS = ("llm_config", "text_config")
# a part of every model type of ours, however it is spelled
IN_MODEL_TYPES = "nemotron"

# what a state may be kept in: the conv window is fed to the convolution as it is, and kernels have no scale for either
STATE_DTYPES = ("float32", "bfloat16", "float16")
BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
