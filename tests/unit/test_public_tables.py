from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.profiles import fit_measurements
from llmpq_sim.latency.fitting.rows import Measurements

EXPERTS = (
    "gpu,backend,version,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,"
    "moe_tp_size,moe_ep_size,distribution,kernel,source,latency_us\n"
    "lab,VLLM,0.24.0,bfloat16,16,2048,768,8,128,2,4,balanced,triton,table,55.5\n"
    "lab,VLLM,0.24.0,fp8_block,16,2048,768,8,128,1,1,power_law_1.2,triton,table,44.5\n"
)
LATENT = (
    "gpu,backend,version,phase,whole_module,mla_dtype,kv_cache_dtype,gemm_type,num_heads,"
    "batch_size,isl,step,kernel,latency_us\n"
    "lab,SGLang,0.5.14,prefill,False,bfloat16,bfloat16,,16,2,1024,256,fa,70\n"
    "lab,SGLang,0.5.14,decode,True,bfloat16,fp8,bfloat16,16,64,1,1023,fa,30\n"
)
WINDOWS = (
    "gpu,backend,version,phase,attn_dtype,kv_cache_dtype,head_dim,window_size,num_heads,"
    "num_key_value_heads,batch_size,isl,step,latency_us\n"
    "lab,VLLM,0.24.0,prefill,bfloat16,bfloat16,64,128,32,8,4,2048,0,80\n"
    "lab,VLLM,0.24.0,decode,bfloat16,bfloat16,64,0,32,8,4,1,2047,8\n"
)
RECURRENT = (
    "gpu,backend,version,op,phase,batch_size,seq_len,num_tokens,d_model,d_conv,num_k_heads,"
    "head_k_dim,num_v_heads,head_v_dim,d_state,nheads,head_dim,n_groups,kernel,latency_us\n"
    "lab,vLLM,0.24.0,gdn,context,2,512,1024,4096,4,16,128,32,128,0,0,0,0,chunk_gated,90\n"
    "lab,TRTLLM,1.3,mamba2,generation,8,1,8,4096,4,0,0,0,0,128,64,32,8,causal_conv1d_update,5\n"
)
PRODUCTS = (
    "gpu,backend,version,gemm_dtype,m,n,k,kernel,latency_us\n"
    "lab,VLLM,0.24.0,nvfp4,512,4096,2048,cute,12\n"
    "lab,VLLM,0.24.0,bfloat16,512,4096,2048,torch,24\n"
)


def rows_of(text: str, folder: Path) -> Measurements:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_measurements(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            EXPERTS,
            {
                "op": ["experts"] * 2,
                "quant": ["bf16", "fp8_block"],
                "backend": ["VLLM"] * 2,
                "routing": ["balanced", "power_law_1.2"],
                "m": [16, 16],
                "n": [768, 768],
                "k": [2048, 2048],
                "experts": [128, 128],
                "chosen": [8, 8],
                "tensor_ranks": [2, 1],
                "expert_ranks": [4, 1],
                "latency_us": [55.5, 44.5],
            },
        ),
        (
            LATENT,
            {
                "op": ["latent"] * 2,
                "phase": ["prefill", "decode"],
                "kernel": ["attention", "module"],
                "batch": [2, 64],
                "seq": [1024, 1024],
                "cached": [256, 0],
                "heads": [16, 16],
                "kv_bits": [16, 8],
            },
        ),
        (
            WINDOWS,
            {
                "op": ["attention"] * 2,
                "phase": ["prefill", "decode"],
                "seq": [2048, 2047],
                "window": [128, 0],
                "heads": [32, 32],
                "kv_heads": [8, 8],
                "head_dim": [64, 64],
                "kv_bits": [16, 16],
            },
        ),
        (
            RECURRENT,
            {
                "op": ["recurrent"] * 2,
                "phase": ["prefill", "decode"],
                "algorithm": ["gated-delta", "mamba-2"],
                "kernel": ["scan", "convolution"],
                "heads": [32, 64],
                "kv_heads": [16, 8],
                "head_dim": [128, 128],
                "value_dim": [128, 32],
            },
        ),
        (
            PRODUCTS,
            {
                "op": ["gemm"] * 2,
                "quant": ["nvfp4", "bf16"],
                "kernel": ["", ""],
                "m": [512, 512],
                "n": [4096, 4096],
                "k": [2048, 2048],
            },
        ),
    ],
)
def test_a_public_table_is_told_by_its_columns(
    text: str, expected: dict[str, list[object]], tmp_path: Path
) -> None:
    rows = rows_of(text, tmp_path)
    assert rows.gpu.tolist() == ["lab"] * 2
    assert {name: getattr(rows, name).tolist() for name in expected} == expected


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    bad = RECURRENT.replace(",16,128,32,128,", ",16,128,many,128,")
    with pytest.raises(InputError, match=r"table\.csv line 2, column heads: .* got 'many'"):
        rows_of(bad, tmp_path)


def test_several_tables_of_a_device_make_one_profile(tmp_path: Path) -> None:
    paths = []
    for name, text in (("products", PRODUCTS), ("experts", EXPERTS), ("windows", WINDOWS)):
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text(text.replace("lab,", "b200_sxm,"), encoding="utf-8")
    said: list[str] = []
    report = fit_measurements(paths, "b200-sxm", "vllm-0.24.0", 0, said.append)
    profile = report.profile
    assert (profile.device, profile.kernels, report.rows_used) == ("b200-sxm", "vllm-0.24.0", 5)
    assert {"fp16", "nvfp4"} <= set(profile.gemms)
    assert set(profile.experts) == {"fp16"}
    assert set(profile.windows) == {"prefill"}
    assert report.errors == []
    assert report.rows_dropped == {"tokens are spread unevenly over experts": 1}
    assert "fitting window fp16 prefill: 1 rows" in said
    alone = fit_measurements(paths[2:], "b200-sxm", None, 0, said.append).profile
    assert alone.kernels == "vllm-0.24"
    assert alone.notes[0] == "Matrix products follow the data sheet: none was timed."
