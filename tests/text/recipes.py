"""Files of settings in the shapes that TRL, alignment-handbook and LLaMA-Factory publish, and the
names that LLaMA-Factory's recipes of preference training use."""

from __future__ import annotations

TRL_CLI = """
model_name_or_path: user/model
datasets:
  - path: user/data
    name: default
    split: train_prefs
    columns: [chosen, rejected]
streaming: false
learning_rate: 5.0e-7
lr_scheduler_type: cosine
report_to: none
"""

# alignment-handbook at 925acdf (2025-07-29): Zephyr's two, SmolLM3's, Zephyr of ORPO.
ZEPHYR = """
model_name_or_path: user/sft
torch_dtype: null
dataset_mixture:
  datasets:
    - id: user/prefs
      config: default
      split: train_prefs
      columns:
        - chosen
        - rejected
      weight: 1.0
  seed: 0
dataset_num_proc: 12
bf16: true
beta: 0.01
do_eval: true
eval_strategy: "no"
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: False
hub_model_id: zephyr
hub_private_repo: true
learning_rate: 5.0e-7
log_level: info
logging_steps: 10
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
output_dir: data/zephyr
per_device_train_batch_size: 8
per_device_eval_batch_size: 8
push_to_hub: false
report_to:
- tensorboard
- wandb
save_strategy: "steps"
save_steps: 100
save_total_limit: 1
seed: 42
warmup_ratio: 0.1
"""
QLORA = """
model_name_or_path: user/sft
use_peft: true
load_in_4bit: true
lora_r: 128
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
dataset_mixer:
  user/prefs: 1.0
dataset_splits:
- train_prefs
- test_prefs
optim: paged_adamw_32bit
eval_strategy: steps
eval_steps: 100
warmup_ratio: 0.1
"""
SMOLLM = """
model_name_or_path: user/sft
model_revision: it
dataset_name: user/prefs
eval_strategy: 'no'
hub_strategy: every_save
learning_rate: 1.0e-06
logging_strategy: steps
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr_rate: 0.1
max_grad_norm: 0.2
beta: 0.05
loss_type: apo_zero
max_length: 24576
overwrite_output_dir: true
padding_free: true
report_to:
- wandb
save_steps: 0.5
use_liger_kernel: true
warmup_steps: 0.1
"""

# TRL's documentation of its command line, and alignment-handbook's SmolLM2.
TRL_MIXTURE = """
model_name_or_path: user/model
datasets:
  - path: user/data
    fraction: 0.75
  - path: user/others
    split: train_prefs
    columns: [prompt, chosen, rejected]
    fraction: 0.25
output_dir: out
"""
SMOLLM2 = """
model_name_or_path: user/sft
torch_dtype: null
dataset_mixture:
  datasets:
    - id: user/prefs
      config: default
      split: train_prefs
      columns:
        - chosen
        - rejected
      weight: 1.0
    - id: user/prefs
      config: default
      split: test_prefs
      columns:
        - chosen
        - rejected
      weight: 0.4
  test_split_size: 2
  seed: 0
dataset_num_proc: 1
bf16: true
beta: 0.5
do_eval: true
hub_private_repo: true
eval_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: False
learning_rate: 1.0e-6
max_length: 1024
max_prompt_length: 512
optim: rmsprop
output_dir: data/smollm2
push_to_hub: false
seed: 42
warmup_ratio: 0.1
"""
# LLaMA-Factory's, with two names of its registry.
FACTORY_SEVERAL = """
model_name_or_path: user/instruct
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 2
lora_target: all
pref_beta: 0.1
pref_loss: sigmoid
dataset: dpo_a,dpo_b
mix_strategy: interleave_under
interleave_probs: 0.5,0.5
template: qwen3_nothink
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 1
output_dir: saves/dpo
logging_steps: 10
plot_loss: true
overwrite_output_dir: true
gradient_accumulation_steps: 1
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
val_size: 0
"""

# LLaMA-Factory at 01fa59b and dc85995: a LoRA by DPO, and one by KTO.
FACTORY_DPO = """
model_name_or_path: user/instruct
trust_remote_code: false
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.2
pref_loss: hinge
dataset: dpo_en_demo
dataset_dir: DATA
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4
output_dir: saves/dpo
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 5.0e-6
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""
FACTORY_KTO = FACTORY_DPO.replace("stage: dpo", "stage: kto").replace("pref_loss: hinge\n", "")

# What its recipes of preferences set, by the groups of its own help.
FACTORY_V1 = """
model: user/instruct
model_class: llm
peft_config:
  name: lora
  r: 4
  lora_alpha: 8
  lora_dropout: 0.05
  target_modules: all
kernel_config:
  name: auto
dist_config:
  name: fsdp2
  dcp_path: null
quant_config: null
train_dataset: data/dpo.yaml
output_dir: outputs/lora
micro_batch_size: 2
cutoff_len: 2048
learning_rate: 1.0e-5
max_steps: 2
sample_backend: hf
max_new_tokens: 128
"""
# The file of data that it names.
FACTORY_V1_DATA = """
orca:
  path: user/pairs.jsonl
  source: local
  split: train
  converter: pair
ours:
  path: user/others.jsonl
  weight: 0.5
  converter: pair
"""

FACTORY_KEYS = """
model_name_or_path adapter_name_or_path trust_remote_code cache_dir model_revision flash_attn
use_fast_tokenizer resize_vocab split_special_tokens add_tokens add_special_tokens rope_scaling
quantization_bit quantization_method double_quantization use_unsloth enable_liger_kernel
disable_gradient_checkpointing upcast_layernorm low_cpu_mem_usage moe_aux_loss_coef
image_max_pixels video_max_pixels infer_backend infer_dtype
stage do_train do_eval finetuning_type lora_rank lora_alpha lora_dropout lora_target
additional_target loraplus_lr_ratio use_rslora use_dora pissa_init create_new_adapter
freeze_trainable_layers use_galore use_badam use_apollo pure_bf16
pref_beta pref_loss pref_ftx pref_bco_weight dpo_label_smoothing kto_chosen_weight
kto_rejected_weight simpo_gamma ld_alpha ref_model ref_model_adapters ref_model_quantization_bit
dataset eval_dataset dataset_dir media_dir template cutoff_len train_on_prompt mask_history
streaming buffer_size mix_strategy interleave_probs overwrite_cache preprocessing_num_workers
preprocessing_batch_size max_samples val_size eval_on_each_dataset packing neat_packing tool_format
tokenized_path default_system enable_thinking
output_dir overwrite_output_dir logging_steps save_steps save_strategy save_total_limit
save_only_model plot_loss report_to run_name
per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps
lr_scheduler_type warmup_ratio warmup_steps weight_decay max_grad_norm optim seed bf16 fp16
ddp_timeout deepspeed fsdp dataloader_num_workers resume_from_checkpoint compute_accuracy
early_stopping_steps load_best_model_at_end metric_for_best_model greater_is_better
per_device_eval_batch_size eval_strategy eval_steps use_swanlab disable_shuffling
model model_class init_config peft_config kernel_config quant_config custom_chat_template
train_dataset micro_batch_size global_batch_size batching_strategy batching_workers
enable_activation_checkpointing dist_config dp_size cp_size cp_mode mp_replicate_size mp_shard_size
dist_timeout optim_config lr_scheduler_config full_determinism save_epochs save_ckpt_as_hf
sample_backend max_new_tokens
""".split()
