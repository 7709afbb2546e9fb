"""What only a card shows: ``make gpu-check``. Elsewhere these tests are skipped, with the reason.

``DIFFDPO_GPU_CHECK=cpu`` runs on the CPU what makes sense there, so that the code of the tests is
exercised; the rest is skipped even then. ADD A RISK: a row here and a test that would fail if it
were real.

=====================================================  ==========================================
risk                                                   test
=====================================================  ==========================================
a reference's copy stays on the CPU                    test_places: full fine-tune, judged
candidates are sampled on the CPU                      test_places: networks of make_pairs
encoders stay after --cache_latents                    test_places: encoders are gone
the step waits for the card, copies block              test_never_waits
workers carry the pipeline, or touch the card          test_places: workers
resumed runs have other bits                           test_numbers: --deterministic
float16: scaler, clipping, fused AdamW                 test_numbers: an overflow
checkpointing under a LoRA changes the loss            test_numbers: gradient checkpointing
gradient checkpointing saves nothing                   test_memory
the copy of a full fine-tune, and the sum              test_memory: bytes a weight
two snapshots in host memory                           test_memory: two saves
float32 weights in host memory while loading           test_memory: loading
out of memory is a traceback                           test_memory: a batch too large
convolutions in another layout are faster              test_speed: layouts
the autoencoder in float32 takes seconds               test_speed: autoencoder
texts of new lengths are compiled again and again      test_speed: graphs
rows without padding score otherwise                   test_text_kernels: packed rows
logits are rounded before their log-softmax            test_text_kernels: sums
float32 without TF32, and no word                      test_speed: a line at the start
DDP with adapters off; one process samples             test_two_cards
=====================================================  ==========================================

Not here, because no card is needed to show them: shards that are not seen and shares that end apart
(``tests/cache``), and an upload while others wait (``tests/engine/test_run_folder.py``).
"""
