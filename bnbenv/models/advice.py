"""How to load a model on this machine: each line of the code with its reason. Pure.

What transformers takes comes from the row of its release; which type to compute in, from the GPUs and from what others
saw of this family of models.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator

import msgspec

from bnbenv.matrix.model import TransformersApi
from bnbenv.models.compute import Type, compute_type
from bnbenv.models.devices import Devices
from bnbenv.models.model import TORCH_NAMES, Config, Quantization, Setting

QLORA = "QLoRA, arXiv 2305.14314"
LLM_INT8 = "LLM.int8(), arXiv 2208.07339"
FSDP_QLORA = "bitsandbytes' documentation, FSDP-QLoRA"
GIB = 1 << 30
IN_A_ROW = 4  # GPUs
_NAMES = {short: name for name, short in TORCH_NAMES.items()}


OUTPUTS = ("lm_head",)  # the output layer's name where the parameters are not known, or it is tied and none of them


class Line(msgspec.Struct, frozen=True):
    """A line of the code, why it is there, and who says so."""

    line: str
    because: str
    source: str


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What advice depends on.

    ``config`` is the model's, ``stored`` the type of its checkpoint, ``taken`` the type that transformers would load
    it in by itself, both as safetensors names them. ``api`` is the row of the release ``transformers`` (None: none is
    installed). ``bitsandbytes`` is the installed version. ``cpu_bf16``: the CPU multiplies bfloat16 by itself.
    ``quantization`` is the one that is wanted, of a checkpoint that is quantized already its own; ``method`` is how
    it was quantized (``bitsandbytes``, ``gptq``), None: it was not. ``skip`` are modules that the user wants to keep,
    ``outputs`` those that transformers keeps by itself. ``memory`` is what each GPU may be given for weights, in
    bytes by torch's number; None: the whole model on GPU number ``alone``. ``setting`` are the bytes of the model in
    that quantization, None where they cannot be told; ``tight``: the optimizer has to be a small one.
    """

    config: Config
    stored: str
    taken: str
    api: TransformersApi
    transformers: str | None
    bitsandbytes: str | None
    devices: Devices
    cpu_bf16: bool
    quantization: Quantization
    method: str | None = None
    train: bool = False
    fsdp: bool = False
    skip: tuple[str, ...] = ()
    outputs: tuple[str, ...] = OUTPUTS
    remote_code: bool = False
    revision: str | None = None
    memory: dict[int, int] | None = None
    alone: int = 0
    setting: Setting | None = None
    tight: bool = True


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """The code in parts.

    ``loader`` is the class that loads the model, of transformers. ``quantization`` are the arguments of
    BitsAndBytesConfig (none: no such configuration is made), ``loading`` those of from_pretrained beside the model and
    that one, ``training`` statements after it, ``arguments`` those of TrainingArguments. ``dtype`` is torch's name of
    the loading type, ``compute`` that of the type that 4-bit weights are multiplied in, ``storage`` that of what they
    are packed in, where it is not uint8.
    """

    loader: str
    quantization: tuple[Line, ...]
    loading: tuple[Line, ...]
    training: tuple[Line, ...]
    arguments: tuple[Line, ...]
    dtype: str
    compute: str | None
    storage: str | None
    optimizer: str | None

    def lines(self) -> tuple[Line, ...]:
        return (*self.quantization, *self.loading, *self.training, *self.arguments)


def advise(situation: Situation) -> Advice:
    """The code for a situation. What cannot be had together is refused before, by the command."""
    chosen = compute_type(situation.config, situation.devices, situation.cpu_bf16)
    four = situation.quantization not in ("none", "int8")
    fresh = situation.method is None
    storage = chosen.name if situation.fsdp and four and fresh else None
    quantization = tuple(_quantization(situation, chosen, storage)) if fresh else ()
    own = _NAMES.get(situation.config.dtype or situation.taken, chosen.name)
    return Advice(
        loader=loader(situation.config, situation.remote_code),
        quantization=quantization,
        loading=tuple(_loading(situation, chosen)),
        training=tuple(_training(situation)) if situation.train else (),
        arguments=tuple(_arguments(situation, chosen)) if situation.train else (),
        dtype=chosen.name if fresh else own,
        compute=chosen.name if four and fresh else None,
        storage=storage,
        optimizer=_optimizer(situation) if situation.train else None,
    )


def loader(config: Config, remote_code: bool) -> str:
    """The class of transformers that loads the model: of its own one, where no Auto class is sure to know it."""
    named = config.architecture or ""
    mapped = [str(key) for key in config.fields.get("auto_map") or {} if str(key).startswith("AutoModel")]
    if remote_code and mapped and "AutoModelForCausalLM" not in mapped and mapped[0].isidentifier():
        return mapped[0]
    causal = named.endswith(("ForCausalLM", "LMHeadModel")) or remote_code
    if causal or not named.isidentifier() or not named.isascii() or keyword.iskeyword(named):
        return "AutoModelForCausalLM"
    return named


def _quantization(s: Situation, chosen: Type, storage: str | None) -> Iterator[Line]:
    if s.quantization == "none":
        return
    if s.quantization == "int8":
        yield Line("load_in_8bit=True", "LLM.int8: a byte a weight, each row with a scale of its own", LLM_INT8)
        because = (
            "inputs larger than this are multiplied in 16 bit; 6.0 is where the outliers of large models begin, and "
            "0.0 would be faster and less exact"
        )
        yield Line("llm_int8_threshold=6.0", because, LLM_INT8)
    else:
        yield from _four_bit(s, chosen, storage)
    if s.skip:
        names = [*dict.fromkeys((*s.outputs, *s.skip))]
        because = (
            "holds for 4 bit too, whatever its name says; a list of one's own replaces that of transformers, so the "
            "output layer has to be named too"
        )
        line = f"llm_int8_skip_modules=[{', '.join(map(ascii, names))}]"
        yield Line(line, because, f"transformers {s.api.version}, get_modules_to_not_convert")


def _four_bit(s: Situation, chosen: Type, storage: str | None) -> Iterator[Line]:
    yield Line("load_in_4bit=True", "half a byte a weight, in blocks of 64 that share a scale", QLORA)
    if s.quantization.startswith("nf4"):
        because = "its 16 values are spread as weights are; fp4, the default, is less exact at the same size"
        yield Line('bnb_4bit_quant_type="nf4"', because, QLORA)
    else:
        because = "as asked for; nf4 is more exact at the same size, unless the weights are not normally distributed"
        yield Line('bnb_4bit_quant_type="fp4"', because, QLORA)
    if s.quantization.endswith("-double"):
        because = "the scales are quantized too, which saves 0.37 bits a weight without a loss that is seen"
        yield Line("bnb_4bit_use_double_quant=True", because, QLORA)
    because = f"{chosen.because}; without this line it is float32"
    yield Line(f"bnb_4bit_compute_dtype=torch.{chosen.name}", because, chosen.source)
    if storage:
        because = "FSDP shards floating types of one kind only: the packed weights are stored as that of the rest"
        yield Line(f"bnb_4bit_quant_storage=torch.{storage}", because, FSDP_QLORA)


def _loading(s: Situation, chosen: Type) -> Iterator[Line]:
    argument, source = s.api.dtype_argument, f"transformers {s.api.version}, from_pretrained"
    taken = _NAMES.get(s.taken, s.taken)
    if s.method is not None:
        name = _NAMES.get(s.config.dtype or s.taken, chosen.name)
        yield Line(f"{argument}=torch.{name}", "as config.json says, for what is not quantized", source)
    elif s.quantization == "none":
        yield Line(f"{argument}=torch.{chosen.name}", chosen.because, chosen.source)
    else:
        because = "for what is not quantized (embeddings, norms, the output layer): the type that is computed in"
        if chosen.name != taken:
            because += f"; transformers {s.api.version} would take {taken}"
        if s.stored == "F32" and chosen.name != "float32":
            because += ", and the checkpoint's float32 twice the memory" if taken != "float32" else ", twice the memory"
        yield Line(f"{argument}=torch.{chosen.name}", because, source)
    if s.revision:
        yield Line(f"revision={s.revision!a}", "the revision that was asked for", source)
    yield from _placement(s)
    if s.remote_code:
        because = "as asked for: this runs code that comes with the checkpoint; read it first"
        yield Line("trust_remote_code=True", because, f"transformers {s.api.version}, from_pretrained")


def _placement(s: Situation) -> Iterator[Line]:
    source = f"transformers {s.api.version}, from_pretrained"
    gpus = s.devices.gpus
    if s.fsdp:
        return  # FSDP places the shards itself; transformers loads for it on rank 0
    if not gpus:
        yield Line('device_map={"": "cpu"}', f"no GPU can be used: {s.devices.missing or 'there is none'}", source)
    elif s.train:
        because = (
            "the whole model on the GPU of this process, which torchrun and accelerate launch number: data parallel. "
            'device_map="auto" would be naive model parallelism, where one GPU computes and the others wait'
        )
        yield Line('device_map={"": int(os.environ.get("LOCAL_RANK", 0))}', because, source)
    elif s.memory is None:
        yield Line(f'device_map={{"": {s.alone}}}', "it fits on this GPU as a whole, without room to spare", source)
    else:
        names = [*s.memory]
        several = f"its layers on {len(names)} GPUs in turn" if len(names) > 1 else f"all of it on GPU {names[0]}"
        because = f"{several}; what does not fit is an error here, since bitsandbytes leaves nothing for the CPU"
        yield Line('device_map="auto"', because, source)
        limits = [f'{at}: "{size / GIB:.1f}GiB"' for at, size in s.memory.items()]
        rows = [", ".join(limits[at : at + IN_A_ROW]) for at in range(0, len(limits), IN_A_ROW)]
        inner = rows[0] if len(rows) == 1 else "".join(f"\n        {row}," for row in rows) + "\n    "
        free = "what the recorded GPU has in all" if s.devices.recorded else "what is free now"
        because = (
            f"of {free}, less the CUDA context, the KV cache and what is computed; numbers are torch's, in the order "
            "of CUDA_VISIBLE_DEVICES. transformers takes another 10% off when it quantizes"
        )
        yield Line(f"max_memory={{{inner}}}", because, f"{source}, adjust_max_memory")


def _training(s: Situation) -> Iterator[Line]:
    kwargs = 'gradient_checkpointing_kwargs={"use_reentrant": False}' if s.api.checkpointing_kwargs else ""
    reentrant = "; use_reentrant=False is what torch recommends, and needs no input with a gradient" if kwargs else ""
    if s.fsdp:
        pass  # peft's preparation casts to float32 what FSDP shards beside 16-bit weights
    elif s.quantization == "none" and s.method is None:
        because = f"activations of layers only are kept, the rest is computed again{reentrant}"
        yield Line(f"model.gradient_checkpointing_enable({kwargs})", because, "torch.utils.checkpoint")
    else:
        because = (
            "freezes the model, casts norms, embeddings and the output layer to float32, and keeps activations of "
            f"layers only, the rest is computed again (gradient checkpointing){reentrant}"
        )
        given = f"\n    model, {kwargs}\n" if kwargs else "model"
        yield Line(f"model = prepare_model_for_kbit_training({given})", because, "peft, utils/other.py")
    because = "adapters beside every linear layer but the output layer, as in the QLoRA paper; r is their rank"
    causal = loader(s.config, s.remote_code) == "AutoModelForCausalLM"
    task = ', task_type="CAUSAL_LM"' if causal else ""
    config = f'LoraConfig(\n        r=16, lora_alpha=32, target_modules="all-linear"{task}\n    )'
    source = QLORA
    if s.fsdp:
        config += ",\n    autocast_adapter_dtype=False"
        because += "; in the type of the rest, since FSDP shards together what is of one type"
        source = "huggingface/accelerate issue 3874"
    yield Line(f"model = get_peft_model(\n    model,\n    {config},\n)", because, source)


def _arguments(s: Situation, chosen: Type) -> Iterator[Line]:
    """Of TrainingArguments."""
    source = "transformers, TrainingArguments"
    if s.devices.gpus and chosen.name != "float32":
        name = "bf16" if chosen.name == "bfloat16" else "fp16"
        because = "mixed precision: this type" if s.fsdp else "the adapters are float32, and multiplied in this type"
        yield Line(f'"{name}": True', f"{because} (autocast)", source)
    optimizer = _optimizer(s)
    if optimizer == "paged_adamw_8bit":
        because = "two bytes a trained weight, not eight, which move to main memory when the GPU is full"
    elif s.fsdp:
        because = "FSDP shards its states along with the adapters"
    else:
        because = "adapters are few: eight bytes a trained weight do no harm"
        because += ", and there is room" if s.devices.gpus else "; paging to main memory needs a GPU"
    yield Line(f'"optim": "{optimizer}"', because, "bitsandbytes' documentation, optimizers")


def _optimizer(s: Situation) -> str:
    return "paged_adamw_8bit" if s.devices.gpus and s.tight and not s.fsdp else "adamw_torch"
