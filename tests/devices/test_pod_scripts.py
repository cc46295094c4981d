"""The scripts of launch/pod start the run, pass signals on and start it again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_start_scripts_are_valid():
  pod = ROOT / "launch" / "pod"
  for name in ("tpu.sh", "slurm.sh"):
    subprocess.run(["bash", "-n", str(pod / name)], check=True)
  service, job = yaml.safe_load_all((pod / "kubernetes.yaml").read_text())
  spec, name = job["spec"], job["metadata"]["name"]
  assert service["spec"]["selector"] == {"job-name": name}
  assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
  (text,) = spec["template"]["spec"]["containers"][0]["args"]
  subprocess.run(["sh", "-n", "-c", text], check=True)
  assert f"--processes={spec['completions']} " in text
  assert f"--coordinator={name}-0.{service['metadata']['name']}:" in text


def test_a_kubernetes_pod_succeeds_only_when_the_run_is_finished(tmp_path):
  """SIGTERM reaches the run, and its code 0 is not taken for success."""
  _, job = yaml.safe_load_all((ROOT / "launch/pod/kubernetes.yaml").read_text())
  (text,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
  train = tmp_path / "train"
  train.write_text(
    "#!/bin/sh\ntrap 'exit 0' TERM\ntouch up\nwhile ! [ -e done ]; do sleep .01; done\n"
    "touch results.jsonl\n"
  )
  train.chmod(0o755)
  text = text.replace(".venv/bin/python launch/train.py", str(train))
  text = text.replace("/runs/robult/", "")
  codes = []
  for number in (signal.SIGTERM, None):
    (tmp_path / "up").unlink(missing_ok=True)
    process = subprocess.Popen(["sh", "-c", text], cwd=tmp_path)
    while not (tmp_path / "up").exists():
      time.sleep(0.01)
    if number:
      process.send_signal(number)
    else:
      (tmp_path / "done").touch()
    codes.append(process.wait(timeout=20))
  assert codes == [1, 0]


@pytest.mark.parametrize(
  ("code", "done", "ended", "again"),
  [
    (0, False, 0, True),
    (143, False, 0, True),
    (2, False, 2, False),
    (0, True, 0, False),
  ],
)
def test_a_slurm_job_is_queued_again_until_it_is_finished(code, done, ended, again, tmp_path):
  """Also if SIGTERM came before it trained; not after an error."""
  folder, calls = tmp_path / "run", tmp_path / "calls"
  folder.mkdir()
  for name, last in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
    tool = tmp_path / name
    tool.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n{last}\n')
    tool.chmod(0o755)
  if done:
    (folder / "results.jsonl").touch()
  script = ROOT / "launch" / "pod" / "slurm.sh"
  own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
  own |= {"SLURM_CPUS_PER_TASK": "8"}
  call = ["bash", str(script), str(folder), "--config=c.py"]
  assert subprocess.run(call, env=own, check=False).returncode == ended
  first, *more = calls.read_text().splitlines()
  assert "--cpus-per-task=8 " in first and first.endswith(f"{folder} --config=c.py")
  assert more == (["scontrol requeue 7"] if again else [])
