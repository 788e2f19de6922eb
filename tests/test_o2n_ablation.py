"""The ablation that reads stored parts, on tables as a sweep leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import o2n_ablation

N = 30


def parts(seed: int, shots: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng([seed, shots])
    labels = np.arange(N) % 3 == 0
    strength = {"S_P": 1.0, "S_N": 0.5, "S_text": 0.0, "floor": 0.0}
    return labels, {
        name: rng.random(N) + weight * rng.random(N) * labels for name, weight in strength.items()
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "predictions" / "o2n" / "elpv" / "elpv"
    folder.mkdir(parents=True)
    for shots in (2, 8):
        for seed in (0, 1, 2):
            labels, values = parts(seed, shots)
            names = sorted(values)
            lines = ["query,label,defect,score," + ",".join(f"part.{name}" for name in names)]
            for i in range(N):
                numbers = ",".join(repr(float(values[name][i])) for name in names)
                lines.append(f"q{i},{int(labels[i])},x,0.0,{numbers}")
            (folder / f"k{shots}_s{seed}.csv").write_text("\n".join(lines) + "\n")
    other = tmp_path / "predictions" / "patchcore" / "elpv" / "elpv"
    other.mkdir(parents=True)
    (other / "k2_s0.csv").write_text("query,label,defect,score\nq,1,x,0.5\nr,0,x,0.1\n")
    return tmp_path


def test_every_fusion_is_the_weighted_sum_of_its_branches(sweep: Path) -> None:
    cells = o2n_ablation.read_cells(sweep)
    assert len(cells) == 6  # not the method without the parts
    frame = o2n_ablation.ablation(cells, alpha=0.7, beta=0.2)
    assert len(frame) == 6 * 7
    weights = {"S_P": 1.0, "S_N": 0.7, "S_text": 0.2}
    for row in frame.itertuples():
        labels, values = parts(row.seed, row.shots)
        scores = sum(weights[name] * values[name] for name in row.method.split("+"))
        assert row.image_auroc == pytest.approx(roc_auc_score(labels, scores))
        assert row.image_auprc == pytest.approx(average_precision_score(labels, scores))


def test_table_prints_means_and_paired_differences(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    o2n_ablation.main([str(sweep), "--weights"])
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("elpv, 8 shots, 3 seeds, 1 categories, in %")
    row = next(line for line in lines[start:] if line.split()[:1] == ["S_N"])
    alone, together = [], []
    for seed in (0, 1, 2):
        labels, v = parts(seed, 8)
        alone.append(100 * roc_auc_score(labels, v["S_N"]))
        all_three = v["S_P"] + v["S_N"] + 0.5 * v["S_text"]
        together.append(100 * roc_auc_score(labels, all_three))
    gap = np.subtract(together, alone)
    assert f"{np.mean(alone):.1f} ± {np.std(alone, ddof=1):.1f}" in row
    assert f"{gap.mean():+.1f} ± {gap.std(ddof=1):.1f}" in row
    assert any("floor" in line for line in lines)
    assert any("AUROC by weights" in line for line in lines)


def test_a_folder_without_parts_is_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        o2n_ablation.main([str(sweep), "--method", "patchcore"])
    assert stopped.value.code == 2
    assert "no predictions of method patchcore with the parts S_P" in capsys.readouterr().err
