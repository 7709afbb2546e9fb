"""Files of settings in the shapes that LLaMA-Factory publishes, and the names that it knows."""

from __future__ import annotations

# LLaMA-Factory's, with two names of its registry.
SEVERAL = """
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
DPO = """
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
KTO = DPO.replace("stage: dpo", "stage: kto").replace("pref_loss: hinge\n", "")

# What its recipes of preferences set, by the groups of its own help.
V1 = """
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
V1_DATA = """
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

# What its recipes of preferences set, and all else that its classes of arguments have (ff6d4d1).
KEYS = """
model_name_or_path adapter_name_or_path trust_remote_code cache_dir model_revision flash_attn
use_fast_tokenizer resize_vocab split_special_tokens add_tokens add_special_tokens rope_scaling
quantization_bit quantization_method double_quantization use_unsloth enable_liger_kernel
disable_gradient_checkpointing upcast_layernorm low_cpu_mem_usage moe_aux_loss_coef
image_max_pixels video_max_pixels infer_backend infer_dtype stage do_train do_eval finetuning_type
lora_rank lora_alpha lora_dropout lora_target additional_target loraplus_lr_ratio use_rslora
use_dora pissa_init create_new_adapter freeze_trainable_layers use_galore use_badam use_apollo
pure_bf16 pref_beta pref_loss pref_ftx pref_bco_weight dpo_label_smoothing kto_chosen_weight
kto_rejected_weight simpo_gamma ld_alpha ref_model ref_model_adapters ref_model_quantization_bit
dataset eval_dataset dataset_dir media_dir template cutoff_len train_on_prompt mask_history
streaming buffer_size mix_strategy interleave_probs overwrite_cache preprocessing_num_workers
preprocessing_batch_size max_samples val_size eval_on_each_dataset packing neat_packing tool_format
tokenized_path default_system enable_thinking output_dir overwrite_output_dir logging_steps
save_steps save_strategy save_total_limit save_only_model plot_loss report_to run_name
per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps
lr_scheduler_type warmup_ratio warmup_steps weight_decay max_grad_norm optim seed bf16 fp16
ddp_timeout deepspeed fsdp dataloader_num_workers resume_from_checkpoint compute_accuracy
early_stopping_steps load_best_model_at_end metric_for_best_model greater_is_better
per_device_eval_batch_size eval_strategy eval_steps use_swanlab disable_shuffling model model_class
init_config peft_config kernel_config quant_config custom_chat_template train_dataset
micro_batch_size global_batch_size batching_strategy batching_workers
enable_activation_checkpointing dist_config dp_size cp_size cp_mode mp_replicate_size mp_shard_size
dist_timeout optim_config lr_scheduler_config full_determinism save_epochs save_ckpt_as_hf
sample_backend max_new_tokens eval_num_beams ignore_pad_token_for_loss preserve_thinking
data_shared_file_system freeze_trainable_modules freeze_extra_modules loraplus_lr_embedding
pissa_iter pissa_convert module_dropout oft_rank oft_block_size oft_target ppo_buffer_size
ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model reward_model_adapters
reward_model_quantization_bit reward_model_type galore_target galore_rank galore_update_interval
galore_scale galore_proj_type galore_layerwise apollo_target apollo_rank apollo_update_interval
apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front
badam_mode badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio
badam_mask_mode badam_verbose swanlab_project swanlab_workspace swanlab_run_name swanlab_mode
swanlab_api_key swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret use_llama_pro
use_adam_mini use_mca use_megatron_bridge use_hyper_parallel hyper_parallel_args
hyper_parallel_cp_size use_muon use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha
freeze_vision_tower freeze_multi_modal_projector freeze_language_model
include_effective_tokens_per_second adapter_folder new_special_tokens_config init_special_tokens
shift_attn mixture_of_depths use_unsloth_gc use_reentrant_gc upcast_lmhead_output
train_from_scratch offload_folder use_kv_cache use_v1_kernels hf_hub_token ms_hub_token
om_hub_token print_param_status quantization_type quantization_device_map image_min_pixels
image_do_pan_and_scan crop_to_patches video_min_pixels video_fps video_maxlen use_audio_in_video
audio_sampling_rate export_dir export_size export_device export_quantization_bit
export_quantization_dataset export_quantization_nsamples export_quantization_maxlen
export_legacy_format export_hub_model_id vllm_maxlen vllm_gpu_util vllm_enforce_eager
vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config
sglang_lora_backend use_kt kt_cpu_activation kt_weight_path kt_non_expert_weight_path
kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num kt_lora_expert_intermediate_size
ray_num_workers ray_init_kwargs master_addr master_port enable_torch_profiler profiler_output_dir
profiler_wait_steps profiler_warmup_steps profiler_active_steps profiler_repeat
profiler_record_shapes profiler_profile_memory profiler_with_stack profile_modules fp8 fp8_backend
fp8_enable_fsdp_float8_all_gather do_sample temperature top_p top_k num_beams max_length
repetition_penalty length_penalty skip_special_tokens
""".split()
# What LLaMA Board saves of a run: much of it is a default, or off.
BOARD = """
additional_target: null
bf16: true
cache_dir: null
create_new_adapter: false
cutoff_len: 2048
dataset: dpo_en_demo
dataset_dir: DATA
ddp_timeout: 180000000
do_train: true
enable_liger_kernel: false
enable_thinking: true
eval_dataset: null
finetuning_type: lora
flash_attn: auto
fp16: false
freeze_language_model: false
gradient_accumulation_steps: 8
include_num_input_tokens_seen: true
lora_alpha: 16
lora_dropout: 0
lora_rank: 8
lora_target: all
loraplus_lr_ratio: null
mask_history: false
max_samples: 100000
model_name_or_path: user/instruct
neat_packing: false
neftune_noise_alpha: null
output_dir: saves/board
packing: false
pissa_convert: false
pissa_init: false
pref_beta: 0.1
pref_ftx: 0
pref_loss: sigmoid
preprocessing_num_workers: 16
pure_bf16: false
report_to: none
resize_vocab: false
rope_scaling: null
stage: dpo
template: qwen
train_on_prompt: false
trust_remote_code: true
use_apollo: false
use_badam: false
use_dora: false
use_galore: false
use_llama_pro: false
use_rslora: false
use_swanlab: false
use_unsloth: false
warmup_steps: 0
"""
