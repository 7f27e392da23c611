"""Which cases keep an adapter for later versions of PEFT: each method at its defaults, and special formats."""

# By structure: `<method>` with its defaults, or `<method>/<name>`. A method that finds a place on plain layers keeps
# the adapter from there, where it is smallest.
_KEPT = {
    "linear": """adalora adamss beft deft delora fourierft frod glora hira hra ia3 lily lntuning loha lokr lora
        lora/lora-only miss oft osf peanut psoft pvera randlora shira supertuning tinylora unilora vera waveft""",
    "llama": """adaptionprompt boft c3a cartridge cpt gralora multitaskprompttuning poly prefixtuning prompttuning
        ptuning road shadow vblora xlora/experts2""",
    "llama1": "lora/dora lora/patterns-rslora lora/tokens vblora/topk vera/unsaved",
    "bert": "lora",
    "embedding": "trainabletokens",
    "experts": "lora",
}


def keeps(structure: str, experiment: str) -> bool:
    """Whether the case of an experiment `<method>/<name>` on a structure keeps an adapter."""
    kept = _KEPT.get(structure, "").split()
    return experiment in kept or experiment.removesuffix("/default") in kept
