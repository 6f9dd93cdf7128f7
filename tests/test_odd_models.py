"""Whatever a ``config.json`` says: a model whose numbers are finite, or the reason why there is none.

Those of found engines are read off their disks, and one of them must not cost the others.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readings import EngineReading, ModelFacts
from agent.resolution import resolve_model
from agent.roofline.catalogue import CONFIGS
from agent.roofline.families import FAMILIES
from agent.roofline.quantization import METHODS
from agent.roofline.workload import TokenWork, max_decode_intensity, ridge_batch, workload
from tests.json_values import JSON

READING = EngineReading(engine="vllm", model="odd")
WORK = TokenWork(
    decode_tokens=900.0,
    decode_steps=100.0,
    decode_context=1500.0,
    prompts=3.0,
    prefill_tokens=2000.0,
    prompt_past=100.0,
    prefill_logits=3.0,
    prefill_only_steps=1.0,
    prefill_only_ratio=0.5,
)
KEYS = sorted({key for config in CONFIGS.values() for key in config} | {"layer_types", "mlp_only_layers"})
NUMBERS = st.sampled_from(
    [-(10**12), -1, 0, 1, 2, 7, 4096, 10**6, 2**31, 10**20, 10**400, 1.5, math.nan, True]
)
ODD = NUMBERS | JSON | st.lists(NUMBERS | st.just("full_attention"), max_size=9)
QUANTIZATION = st.fixed_dictionaries(
    {"quant_method": st.sampled_from(sorted(METHODS))},
    optional={
        **dict.fromkeys(
            ("bits", "w_bit", "group_size", "weight_block_size", "bits_per_weight", "format", "load_in_4bit"),
            ODD,
        ),
        **dict.fromkeys(("ignore", "modules_to_not_convert", "kv_cache_scheme", "quantization"), ODD),
        "quant_algo": st.sampled_from(["FP8", "NVFP4", "FP8_PB_WO"]) | ODD,
        "config_groups": st.dictionaries(
            st.just("group_0"),
            st.fixed_dictionaries(
                {},
                optional={
                    "weights": st.fixed_dictionaries(
                        {},
                        optional={
                            "num_bits": st.sampled_from([4, 8]) | ODD,
                            "type": st.sampled_from(["int", "float"]) | ODD,
                            "group_size": ODD,
                            "block_structure": ODD,
                        },
                    )
                    | ODD,
                    "input_activations": ODD,
                },
            )
            | ODD,
        )
        | ODD,
    },
)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_published_model_has_finite_numbers(name: str) -> None:
    assert_finite(CONFIGS[name], known=True)


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    family=st.none() | st.sampled_from(sorted(FAMILIES)),
    changes=st.dictionaries(st.sampled_from(KEYS), ODD, max_size=3),
    quantization=st.none() | QUANTIZATION | ODD,
)
def test_an_odd_configuration_costs_nothing_but_its_model(
    name: str, family: str | None, changes: dict[str, Any], quantization: Any
) -> None:
    config = {**CONFIGS[name], **changes}
    if family is not None:
        config["model_type"] = family
    if quantization is not None:
        config["quantization_config"] = quantization
    assert_finite(config)


def assert_finite(config: dict[str, Any], *, known: bool = False) -> None:
    resolution = resolve_model(ModelFacts(), READING, process=ModelFacts(config=config))
    served = resolution.served
    if served is None:
        assert resolution.problem is not None
        assert not known
        return
    work = workload(served, WORK)
    batch = ridge_batch(served, ridge_flops_per_byte=295.0, context_tokens=1500.0, tokens_per_sequence=1.0)
    numbers = [
        *(getattr(phase, name) for phase in (work.prefill, work.decode) for name in phase.__slots__),
        served.weight_bytes,
        served.kv_bytes_per_token,
        max_decode_intensity(served, 1500.0, tokens_per_sequence=1.0),
        0.0 if batch is None else batch,
    ]
    assert all(isinstance(number, int | float) and 0 <= number < 1e60 for number in numbers), numbers
    assert work.bytes > 0
