"""Faults that a trained adapter's figures tell."""

from __future__ import annotations

from pytest_peftbench.commands.selftest.faults.fault import Fault
from pytest_peftbench.commands.selftest.faults.own import ADAPTER_OFF_WHILE_TESTED, CONSTANT_LEARNING_RATE
from pytest_peftbench.commands.selftest.faults.places import FOURIER, HIRA, LORA, LORA_FORWARD, VERA
from pytest_peftbench.commands.selftest.patching import Edit

_QUALITY = ("test_accuracy", "forgetting", "train_loss")

QUALITY = (
    Fault(
        "scaling missing",
        "fourierft/freq512",
        "a factor that the config sets",
        "quality",
        _QUALITY,
        (Edit(f"{FOURIER}:FourierFTLayer.get_delta_weight", " * self.fourierft_scaling[adapter]", ""),),
    ),
    Fault(
        "optimizer lost a group",
        "lora/rank8-loraplus",
        "the second factors",
        "quality",
        _QUALITY,
        (
            Edit(
                "peft.optimizers.loraplus:create_loraplus_optimizer",
                'list(param_groups["groupB"].values())',
                "[]",
            ),
        ),
    ),
    Fault(
        "scaling off",
        "lora/rank8",
        "x0.1",
        "quality",
        _QUALITY,
        (Edit(f"{LORA}:Linear.forward", LORA_FORWARD, "lora_B(lora_A(dropout(x))) * (scaling * 0.1)"),),
    ),
    Fault(
        "scaling off",
        "hira/rank8",
        "x0.1",
        "quality",
        _QUALITY,
        (Edit(f"{HIRA}:Linear.forward", "result = result + hira_result", "result = result + 0.1 * hira_result"),),
    ),
    Fault(
        "learning rate does not warm up or decay",
        "loha/rank8",
        "constant instead of cosine",
        "quality",
        _QUALITY,
        (CONSTANT_LEARNING_RATE,),
    ),
    Fault(
        "adapter off while tested",
        "lokr/rank8",
        "all layers",
        "quality",
        ("test_accuracy",),
        (ADAPTER_OFF_WHILE_TESTED,),
    ),
    Fault(
        "rescaling vectors frozen",
        "vera/rank64",
        "one of two vectors a layer",
        "quality",
        _QUALITY,
        (Edit(f"{VERA}.forward", "lambda_b * F.linear(", "lambda_b.detach() * F.linear("),),
    ),
)
