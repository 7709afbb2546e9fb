"""Options of LLaMA-Factory that belong to something else there: to a method, another stage, or a
program that serves models. What they belong to is refused where it is switched on."""

from __future__ import annotations

# By the word that they begin with.
OPTIONS = {
    "galore": "target rank update_interval scale proj_type layerwise",
    "apollo": "target rank update_interval scale proj proj_type scale_type layerwise scale_front",
    "badam": "mode start_block switch_mode switch_interval update_ratio mask_mode verbose",
    "swanlab": "project workspace run_name mode api_key logdir lark_webhook_url lark_secret",
    "oft": "block_size target",
    "ppo": "buffer_size epochs score_norm target whiten_rewards",
    "reward": "model model_adapters model_quantization_bit model_type",
    "vllm": "maxlen gpu_util enforce_eager max_lora_rank config",
    "sglang": "maxlen mem_fraction tp_size config lora_backend",
    "kt": "cpu_activation weight_path non_expert_weight_path expert_checkpoint_path"
    " use_lora_experts lora_expert_num lora_expert_intermediate_size",
    "ray": "num_workers init_kwargs",
    "profiler": "output_dir wait_steps warmup_steps active_steps repeat record_shapes"
    " profile_memory with_stack",
    "fp8": "backend enable_fsdp_float8_all_gather",
    "hyper_parallel": "args cp_size",
    "export": "dir size device hub_model_id legacy_format quantization_bit quantization_dataset"
    " quantization_nsamples quantization_maxlen",
    "freeze_trainable": "layers modules",
    "asft": "alpha",
    "eaft": "alpha",
}


def names_of(first: str) -> list[str]:
    """The whole names of the options that begin with a word."""
    return [f"{first}_{rest}" for rest in OPTIONS[first].split()]


SWITCHED_OFF = [name for first in OPTIONS for name in names_of(first)]
