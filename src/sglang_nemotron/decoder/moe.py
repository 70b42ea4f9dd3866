"""The feed-forward mixers: routed experts with a shared expert, and the dense MLP; relu^2, never gated.

Hidden states in, this rank's contribution out. Weight layouts and quantised kernels are SGLang's FusedMoE; where the
table of `ops/forms.py` names a form of ours instead, the same weights go through our own ops.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder.few_rows import linear_of, linears_are_plain
from sglang_nemotron.ops.forms import LAYER, choose
from sglang_nemotron.sglang_api.engine import (
    ColumnParallelLinear,
    QuantizationConfig,
    ReLU2,
    ReplicatedLinear,
    RoutingMethodType,
    RowParallelLinear,
    TopK,
    filter_moe_weight_param_global_expert,
    get_current_device_stream_fast,
    get_exec,
    get_is_capture_mode,
    get_moe_a2a_backend,
    get_moe_impl_class,
    get_parallel,
)


class DenseMLP(nn.Module):
    """down(relu(up x)^2), the `-` layer and the shared expert. Source: HF NemotronHMLP."""

    def __init__(
        self,
        spec: DecoderSpec,
        intermediate_size: int,
        quant_config: QuantizationConfig | None,
        prefix: str,
        parallel_group: Literal["tp", "replicated"] = "tp",
    ) -> None:
        super().__init__()
        self.up_proj = ColumnParallelLinear(
            input_size=spec.hidden_size,
            output_size=intermediate_size,
            bias=False,
            quant_config=quant_config,
            parallel_group=parallel_group,
            prefix=f"{prefix}.up_proj",
        )
        self.down_proj = RowParallelLinear(
            input_size=intermediate_size,
            output_size=spec.hidden_size,
            bias=False,
            quant_config=quant_config,
            reduce_results=False,
            parallel_group=parallel_group,
            prefix=f"{prefix}.down_proj",
        )
        self.act_fn = ReLU2()

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """x_TD -> y_TD, this rank's part of the sum."""
        return self.down_proj(self.act_fn(self.up_proj(x_TD)[0]))[0]

    @property
    def has_few_rows(self) -> bool:
        """Whether `few_rows` computes the same as `forward` between norm and residual."""
        return linears_are_plain((self.up_proj, self.down_proj))

    def few_rows(self, h_TD: torch.Tensor, norm: ops.Norm) -> None:
        """h <- h + mlp(norm(h)) in place; on one rank."""
        hidden_TI = self.act_fn(ops.norm_linear(h_TD, norm, linear_of(self.up_proj)))
        ops.linear_add(h_TD, hidden_TI, linear_of(self.down_proj))


@functools.cache
def _side_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


class MoEMixer(nn.Module):
    """Sigmoid router with a selection bias, top-k experts scaled by `router_scale`, plus the shared expert.

    Source: HF NemotronHMOE; routing as in nemotron config fields norm_topk_prob and routed_scaling_factor.
    """

    # SGLang's modules; their weights appear while they are built
    gate: Any
    experts: Any

    def __init__(self, spec: DecoderSpec, layer_id: int, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.spec = sizes = spec.moe
        self.layer_id = layer_id
        self.gate = ReplicatedLinear(
            spec.hidden_size, sizes.num_experts, bias=False, quant_config=None, prefix=f"{prefix}.gate"
        )
        self.gate.e_score_correction_bias = nn.Parameter(
            torch.empty(sizes.num_experts, dtype=torch.float32), requires_grad=False
        )
        self.experts = get_moe_impl_class(quant_config)(
            num_experts=sizes.num_experts + get_exec().moe.ep_num_redundant_experts,
            top_k=sizes.experts_per_token,
            hidden_size=spec.hidden_size,
            intermediate_size=sizes.expert_intermediate_size,
            reduce_results=False,
            quant_config=quant_config,
            prefix=f"{prefix}.experts",
            activation="relu2",
            # the shared expert reads the same hidden states meanwhile, on another stream
            inplace=False,
            layer_id=layer_id,
            is_gated=False,
            routing_method_type=RoutingMethodType.DeepSeekV3,
            routed_scaling_factor=sizes.router_scale,
        )
        self.topk = TopK(
            top_k=sizes.experts_per_token,
            layer_id=layer_id,
            use_grouped_topk=True,
            topk_group=sizes.router_top_groups,
            num_expert_group=sizes.router_num_groups,
            renormalize=sizes.router_renormalize,
            scoring_func="sigmoid",
            correction_bias=self.gate.e_score_correction_bias,
            routed_scaling_factor=sizes.router_scale,
            apply_routed_scaling_factor_on_output=self.experts.should_fuse_routed_scaling_factor_in_topk,
        )
        self.topk.bind_runner_backend(self.experts.runner_backend, routing_method_type=self.experts.routing_method_type)
        self.shared_experts = None
        if sizes.shared_intermediate_size:
            self.shared_experts = DenseMLP(
                spec,
                sizes.shared_intermediate_size,
                quant_config,
                prefix=f"{prefix}.shared_experts",
                parallel_group=_shared_expert_group(),
            )

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """x_TD -> y_TD, this rank's part of the sum."""
        if _has_side_stream(x_TD):
            routed_TD, shared_TD = self._routed_beside_shared(x_TD)
        else:
            routed_TD, shared_TD = self._routed(x_TD), self._shared(x_TD)
        return routed_TD if shared_TD is None else routed_TD.add_(shared_TD)

    @property
    def has_few_rows(self) -> bool:
        """Whether `few_rows` computes the same as `forward` between norm and residual."""
        spec, shared, up_EID = self.spec, self.shared_experts, getattr(self.experts, "w13_weight", None)
        if shared is None or spec.router_num_groups > 1 or self._is_managed or up_EID is None:
            return False
        both = {linear.weight.dtype for linear in (shared.up_proj, shared.down_proj)}
        if len(both) > 1 or not self._scales_are_static:
            return False
        plain = up_EID.dim() == 3 and up_EID.shape[2] == self.gate.weight.shape[1]
        return plain and up_EID.dtype in (self.gate.weight.dtype, torch.float8_e4m3fn) and shared.has_few_rows

    def few_rows(self, h_TD: torch.Tensor, norm: ops.Norm) -> None:
        """h <- h + experts(norm(h)) + shared expert(norm(h)) in place; on one rank."""
        assert self.shared_experts is not None
        spec, gate = self.spec, self.gate
        layer = ops.MoELayer(
            norm,
            ops.Router(
                gate.weight,
                gate.e_score_correction_bias,
                spec.experts_per_token,
                spec.router_scale,
                spec.router_renormalize,
            ),
            self.experts.w13_weight,
            self.experts.w2_weight,
            self._float8_scales(),
            linear_of(self.shared_experts.up_proj),
            linear_of(self.shared_experts.down_proj),
        )
        ops.moe_layer(h_TD, layer)

    @functools.cached_property
    def _scales_are_static(self) -> bool:
        """Whether FP8 experts come as ModelOpt has them: a scale an expert for weights, one for all for activations."""
        experts, count = self.experts, self.spec.num_experts
        if getattr(experts, "w13_weight", None) is None or experts.w13_weight.dtype != torch.float8_e4m3fn:
            return True
        wanted = {"w13_input_scale": 1, "w13_weight_scale": count, "w2_input_scale": 1, "w2_weight_scale": count}
        found = {name: getattr(experts, name, None) for name in wanted}
        return all(scale is not None and scale.numel() == wanted[name] for name, scale in found.items())

    def _float8_scales(self) -> ops.Float8Scales | None:
        experts = self.experts
        if experts.w13_weight.dtype != torch.float8_e4m3fn:
            return None
        return ops.Float8Scales(
            experts.w13_input_scale, experts.w13_weight_scale, experts.w2_input_scale, experts.w2_weight_scale
        )

    def moe_weights(self) -> list[torch.Tensor]:
        """The expert tensors that expert-parallel load balancing may move."""
        return [
            weight.data
            for name, weight in self.experts.named_parameters()
            if name != "correction_bias"
            and filter_moe_weight_param_global_expert(name, weight, self.experts.num_local_experts)
        ]

    def _shared(self, x_TD: torch.Tensor) -> torch.Tensor | None:
        return self.shared_experts(x_TD) if self.shared_experts is not None else None

    def _routed(self, x_TD: torch.Tensor) -> torch.Tensor:
        up_EID = getattr(self.experts, "w13_weight", None)
        managed = self._is_managed or not self._scales_are_static
        case = ops.experts_case(x_TD, up_EID, top_k=self.spec.experts_per_token, managed=managed)
        return self._by_layer(x_TD) if choose(case).name == LAYER else self._by_ops(x_TD)

    @functools.cached_property
    def _is_managed(self) -> bool:
        """Whether SGLang's layer has to compute: it moves or records experts, or the user chose another runner."""
        return _experts_are_managed() or _runner_of(self.experts) not in ("triton", None)

    def _by_layer(self, x_TD: torch.Tensor) -> torch.Tensor:
        # bf16 operands on the matrix units with fp32 sums and result: what the sigmoid needs
        out_dtype: dict[str, Any] = {} if x_TD.dtype == torch.float32 else {"out_dtype": torch.float32}
        logits_TE = torch.mm(x_TD, self.gate.weight.t(), **out_dtype)
        return self.experts(x_TD, self.topk(x_TD, logits_TE))

    def _routed_beside_shared(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        side, main = _side_stream(), get_current_device_stream_fast()
        side.wait_stream(main)
        shared_TD = self._shared(x_TD)
        with torch.cuda.stream(side):
            routed_TD = self._routed(x_TD)
        get_current_device_stream_fast().wait_stream(side)
        return routed_TD, shared_TD

    def _by_ops(self, x_TD: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        weights_Tk, ids_Tk = ops.route(
            x_TD,
            self.gate.weight,
            self.gate.e_score_correction_bias,
            top_k=spec.experts_per_token,
            scale=spec.router_scale,
            renormalize=spec.router_renormalize,
            num_groups=spec.router_num_groups,
            top_groups=spec.router_top_groups,
        )
        experts = self.experts
        given = (x_TD, experts.w13_weight, experts.w2_weight, weights_Tk, ids_Tk)
        scales = self._float8_scales()
        return ops.experts(*given) if scales is None else ops.experts_fp8(*given, scales)


def _experts_are_managed() -> bool:
    """What only SGLang's own layer does: dispatch to other ranks, move experts, say which ones were taken."""
    moe = get_exec().moe
    return (
        not get_moe_a2a_backend().is_none()
        or get_parallel().moe_ep_size > 1
        or moe.ep_num_redundant_experts > 0
        or moe.enable_eplb
        or moe.init_expert_location != "trivial"
        or moe.expert_distribution_recorder_mode is not None
        or get_exec().features.enable_return_routed_experts
    )


def _runner_of(experts: Any) -> str | None:
    """The name of the backend that would run this layer; None where SGLang wrapped the layer into something else."""
    backend = getattr(experts, "runner_backend", None)
    return None if backend is None else str(backend.value)


def _has_side_stream(x_TD: torch.Tensor) -> bool:
    """Whether the shared expert runs beside the routed ones; FlashInfer's dispatch wants them one after the other."""
    return x_TD.is_cuda and (get_is_capture_mode() or not get_moe_a2a_backend().is_flashinfer())


def _shared_expert_group() -> Literal["tp", "replicated"]:
    # with token dispatch every rank runs its own rows, so each needs the whole shared expert
    backend = get_moe_a2a_backend()
    dispatched = backend.is_deepep() or backend.is_flashinfer() or backend.is_flashinfer_megamoe()
    return "replicated" if dispatched else "tp"
