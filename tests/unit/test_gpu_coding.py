"""The benchmark of coding on a GPU, run where there is none."""

from dataclasses import replace

import pytest
import torch

from benchmarks import gpu_coding
from benchmarks.registry import Skipped
from benchmarks.wan_small import GRID, small
from services.generator.adapters.wan.variants import MATRIX_UNIVERSAL

TINY = replace(MATRIX_UNIVERSAL, backbone=small(MATRIX_UNIVERSAL.backbone), grid=GRID)


@pytest.mark.parametrize("measured", [gpu_coding.coded, gpu_coding.decoded, gpu_coding.placed])
def test_each_case_has_its_runs_and_a_baseline(measured):
    for case in measured(torch.device("cpu"), (TINY,)):
        assert case.value > 0
        assert case.baseline > 0
        assert len(case.runs) == gpu_coding.RUNS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_skipped():
    with pytest.raises(Skipped):
        list(gpu_coding.code())
