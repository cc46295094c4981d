"""Draws the data flow of every method: `python docs/figures.py` writes docs/_static/*.svg."""

from pathlib import Path

import matplotlib.pyplot as plt
from drawing import Figure


def overview():
  f = Figure("overview", 8.6, 2.5)
  rows = f.box(1.0, 1.35, "your rows\nholes allowed", "data", 1.6, 0.8)
  hide = f.box(3.1, 1.35, "training protocol\nhides more, by id", "code", 1.7, 0.8)
  methods = f.box(5.2, 1.95, "the method", "network")
  others = f.box(5.2, 0.75, "its baselines", "network")
  table = f.box(7.5, 1.35, "every pattern x seeds,\npaired intervals", "output", 1.9, 0.8)
  f.arrow(rows, hide)
  f.arrow(hide, methods)
  f.arrow(hide, others)
  f.arrow(methods, table)
  f.arrow(others, table)
  f.note(5.2, 1.35, "same rows, masks,\nlabels and steps")
  f.note(7.5, 0.55, "chosen on validation,\ntested once")
  return f


def fusion():
  f = Figure("fusion", 8.6, 2.6)
  x1, x2 = f.box(0.9, 2.0, "$x_1$ present", "data"), f.box(0.9, 0.8, "$x_2$ absent", "data")
  e1 = f.box(2.9, 2.0, "encoder 1", "network")
  h1 = f.box(4.7, 2.0, "$H_1$", "code", 1.0)
  fill = f.box(4.7, 0.8, "fill 2", "code", 1.0)
  head = f.box(6.3, 1.4, "head", "network", 1.0)
  out = f.box(7.8, 1.4, "logits", "output", 1.1)
  f.arrow(x1, e1)
  f.arrow(e1, h1)
  f.arrow(h1, head)
  f.arrow(x2, fill)
  f.note(2.85, 1.0, "zeros, running mean of $H_2$\nor a learned token", va="bottom")
  f.arrow(fill, head)
  f.arrow(head, out)
  return f


def distil():
  f = Figure("distil", 8.6, 3.0)
  x = f.box(0.9, 1.6, "a row,\nlabel or none", "data", 1.4, 0.7)
  net = f.box(2.8, 1.6, "fusion network", "network")
  full = f.box(5.0, 2.4, "logits(full)", "code")
  part = f.box(5.0, 0.8, "logits(A), every\nsubset A", "code", 1.6, 0.65)
  pull = f.box(7.4, 1.6, "divergence", "loss", 1.5)
  task = f.box(7.4, 0.5, "task loss, if labelled", "loss", 1.9)
  f.arrow(x, net)
  f.arrow(net, full, "all that it has", above=0.25, at=0.4)
  f.arrow(net, part)
  f.arrow(full, pull, "teacher: no gradient", dashed=True, above=0.25, at=0.55)
  f.arrow(part, pull)
  f.arrow(part, task)
  return f


def share():
  f = Figure("share", 8.6, 3.2)
  n = f.box(1.0, 2.4, "row $n$: $R_{A,n}$, $t_n$", "code", 1.6)
  m = f.box(1.0, 0.9, "row $m$: $R_{A,m}$, $t_m$", "code", 1.6)
  codes = f.box(3.6, 2.4, "$l R_{A,n} + (1 - l) R_{A,m}$", "code", 2.2)
  target = f.box(3.6, 0.9, "$l t_n + (1 - l) t_m$", "code", 2.0)
  head = f.box(5.7, 2.4, "head $c$", "network", 1.1)
  loss = f.box(7.6, 1.65, "divergence", "loss", 1.4)
  for row in (n, m):
    f.arrow(row, codes)
    f.arrow(row, target)
  f.arrow(codes, head)
  f.arrow(head, loss)
  f.arrow(target, loss, dashed=True)
  f.note(1.0, 1.65, "$t$: label, else prediction(full)")
  f.note(2.0, 2.9, "$R_A$: what the head reads of modalities $A$ that both have")
  f.note(6.6, 0.6, "beside the loss of distil")
  return f


def robult():
  f = Figure("robult", 9.6, 4.4)
  x1 = f.box(0.7, 3.5, "$x_1$", "data", 0.7)
  x2 = f.box(0.7, 2.1, "$x_2$", "data", 0.7)
  f1, f2 = f.box(1.9, 3.5, "$f_1$", "network", 0.7), f.box(1.9, 2.1, "$f_2$", "network", 0.7)
  f0 = f.box(1.9, 0.7, "$f_0$ reads several", "network", 1.5)
  h1, h2 = f.box(3.1, 3.5, "$H_1$", "code", 0.7), f.box(3.1, 2.1, "$H_2$", "code", 0.7)
  h0 = f.box(3.4, 0.7, "$H_A$", "code", 0.7)
  u1 = f.box(4.9, 3.9, "private $U_1$", "code", 1.2, 0.42)
  z1 = f.box(4.9, 3.2, "shared $Z_1$", "code", 1.2, 0.42)
  u2 = f.box(4.9, 2.5, "private $U_2$", "code", 1.2, 0.42)
  z2 = f.box(4.9, 1.85, "shared $Z_2$", "code", 1.2, 0.42)
  s = f.box(4.9, 0.3, "$S$", "code", 0.9, 0.42)
  head = f.box(6.6, 2.1, "head $c$,\none for all", "network", 1.2, 0.7)
  rec = f.box(8.4, 3.9, "$L_{rec}$: rebuild $H_i$\nfrom $(Z_i, U_i)$", "loss", 1.9, 0.6)
  sup = f.box(8.4, 3.0, "$L_{sup}$", "loss", 1.2)
  out = f.box(8.4, 2.1, "one prediction\na branch", "output", 1.5, 0.6)
  con = f.box(8.4, 0.3, "$L_{lb}$, $L_{ulb}$: soft PU\ncontrast of $S$, $Z_i$", "loss", 1.9, 0.6)
  for x, network in ((x1, f1), (x2, f2), (x1, f0), (x2, f0), (f1, h1), (f2, h2), (f0, h0)):
    f.arrow(x, network)
  for h, u, z in ((h1, u1, z1), (h2, u2, z2)):
    f.arrow(h, u, "$g_i$", above=0.12)
    f.arrow(h, z, "$g_0$", above=-0.14)
  f.arrow(h0, s, "$g_0$", above=-0.14)
  f.arrow(u1, rec)
  f.arrow(z1, rec, dashed=True)
  for code in (u1, z1, u2, z2, h0):
    f.arrow(code, head)
  f.arrow(head, sup)
  f.arrow(head, out)
  f.arrow(z2, con)
  f.arrow(s, con)
  return f


def redcore():
  f = Figure("redcore", 9.6, 3.9)
  x1 = f.box(0.9, 3.2, "$x^1$ present", "data", 1.3)
  x2 = f.box(0.9, 1.9, "$x^2$ absent", "data", 1.3)
  e1 = f.box(2.7, 3.2, "$E_1$", "network", 0.9)
  z1 = f.box(4.3, 3.2, r"$z^1 \sim N(\mu, \sigma)$", "code", 1.5)
  imp = f.box(4.3, 1.9, "imputer $G_2$", "network", 1.3)
  z2 = f.box(6.1, 1.9, r"$\hat z^2$", "code", 0.9)
  joint = f.box(7.6, 3.2, "joint head", "network", 1.2)
  single = f.box(7.6, 1.9, "unimodal heads", "network", 1.4)
  out = f.box(9.0, 3.2, "logits", "output", 0.9)
  kl = f.box(2.7, 2.3, "$L_{KL}$", "loss", 0.9, 0.42)
  lr = f.box(4.3, 0.7, r"$\beta_m L_R^m$ where m is present", "loss", 2.6, 0.45)
  beta = f.box(7.6, 0.7, r"upper level moves $\beta$", "network", 1.9, 0.45)
  f.arrow(x1, e1)
  f.arrow(e1, z1)
  f.arrow(z1, imp)
  f.arrow(x2, imp, "learned embedding", above=-0.12, at=0.5)
  f.arrow(imp, z2)
  f.arrow(z1, joint)
  f.arrow(z2, joint)
  f.arrow(z1, single)
  f.arrow(z2, single)
  f.arrow(joint, out)
  f.arrow(z1, kl)
  f.arrow(imp, lr)
  f.arrow(lr, beta, "relative advantage", bend=-0.2, above=0.42)
  f.arrow(beta, lr, bend=-0.2)
  return f


def promise():
  f = Figure("promise", 9.6, 3.9)
  x1 = f.box(0.9, 3.1, "$x^1$ present", "data", 1.3)
  x2 = f.box(0.9, 1.5, "$x^2$ absent", "data", 1.3)
  e1 = f.box(2.5, 3.1, "encoder", "network", 1.1)
  p = f.box(2.5, 1.5, "prompts $P^2$", "network", 1.3)
  z1 = f.box(4.1, 3.1, "$R^1 = z^1$", "code", 1.2)
  gen = f.box(4.1, 2.3, "attention", "network", 1.2, 0.42)
  z2 = f.box(4.1, 1.5, "$R^2$ generated", "code", 1.4)
  layers = f.box(6.2, 3.1, "cross and self layers\n(none by default)", "network", 1.9, 0.65)
  head = f.box(8.4, 3.1, "mean, concat, head", "network", 1.7)
  out = f.box(8.4, 2.1, "logits", "output", 1.2)
  fncl = f.box(6.6, 1.5, "FNCL: elements\nof one row pull", "loss", 1.6, 0.6)
  cccl = f.box(6.6, 0.6, "CCCL: rows of one\nclass pull", "loss", 1.6, 0.6)
  f.arrow(x1, e1)
  f.arrow(e1, z1)
  f.arrow(z1, gen)
  f.arrow(p, gen)
  f.arrow(gen, z2)
  f.arrow(z1, layers)
  f.arrow(z2, layers)
  f.arrow(layers, head)
  f.arrow(head, out)
  f.arrow(z2, fncl)
  f.arrow(z2, cccl)
  f.arrow(z1, fncl)
  f.arrow(x2, p)
  return f


def mplmm():
  f = Figure("mplmm", 9.6, 3.6)
  x1 = f.box(0.9, 2.9, "$x_1$ present", "data", 1.3)
  x2 = f.box(0.9, 1.4, "$x_2$ absent", "data", 1.3)
  proj = f.box(2.6, 2.9, "projection", "network", 1.2)
  gen = f.box(2.6, 1.4, "generative\nprompt", "network", 1.3, 0.6)
  s1 = f.box(4.3, 2.9, "steps + present\nsignal prompt", "code", 1.5, 0.6)
  s2 = f.box(4.3, 1.4, "steps + missing\nsignal prompt", "code", 1.5, 0.6)
  cross = f.box(6.1, 2.15, "cross-modal\nencoders", "frozen", 1.3, 0.65)
  types = f.box(6.1, 0.8, "missing-type\nprompt", "network", 1.3, 0.6)
  memory = f.box(7.7, 2.15, "memory\nencoders", "frozen", 1.2, 0.65)
  out = f.box(9.0, 2.15, "output", "network", 0.9)
  logits = f.box(9.0, 1.2, "logits", "output", 0.9)
  f.arrow(x1, proj)
  f.arrow(proj, s1)
  f.arrow(x1, gen)
  f.arrow(x2, gen)
  f.arrow(gen, s2)
  f.arrow(s1, cross)
  f.arrow(s2, cross)
  f.arrow(cross, memory)
  f.arrow(types, memory, "appended", above=-0.15, at=0.72)
  f.arrow(memory, out)
  f.arrow(out, logits)
  f.note(4.8, 0.25, "stage 1 trains the backbone on complete rows; stage 2 what is orange here")
  return f


def promma():
  f = Figure("promma", 9.6, 3.9)
  x = f.box(0.9, 2.6, "what is\npresent", "data", 1.2, 0.65)
  made = f.box(2.7, 3.2, "generated\nsteps", "code", 1.2, 0.6)
  off = f.box(2.7, 2.0, "OFF prompts", "network", 1.2)
  evaluator = f.box(2.7, 0.9, "evaluator", "network", 1.2)
  gate = f.box(4.6, 2.6, r"$g\,$ON$ + (1-g)\,$OFF", "code", 1.6)
  cross = f.box(6.4, 2.6, "cross-modal\nencoders", "frozen", 1.3, 0.65)
  weigh = f.box(6.4, 1.5, "weights by mutual\ninformation", "network", 1.6, 0.6)
  shared = f.box(4.6, 0.22, "shared prompt", "network", 1.4, 0.36)
  private = f.box(6.4, 0.68, "private prompts", "network", 1.5, 0.36)
  connect = f.box(8.3, 0.22, "connection", "network", 1.3, 0.36)
  memory = f.box(8.3, 2.6, "memory\nencoders", "frozen", 1.2, 0.65)
  out = f.box(8.3, 3.5, "logits", "output", 1.0, 0.45)
  f.arrow(x, made)
  f.arrow(x, off)
  f.arrow(x, evaluator)
  f.arrow(made, gate)
  f.arrow(off, gate)
  f.arrow(evaluator, gate, "$g$", above=0.12)
  f.arrow(gate, cross)
  f.arrow(cross, memory)
  f.arrow(cross, weigh)
  f.arrow(shared, private)
  f.arrow(private, weigh)
  f.arrow(weigh, memory, "appended", above=0.16, at=0.4)
  f.arrow(memory, out)
  f.arrow(shared, connect)
  f.arrow(connect, memory)
  return f


DRAWINGS = (overview, fusion, distil, share, robult, redcore, promise, mplmm, promma)


def draw_all(folder):
  """Writes every figure to `folder`."""
  style = {"svg.fonttype": "path", "svg.hashsalt": "promise_jax", "font.family": "DejaVu Sans"}
  with plt.rc_context(style):
    for draw in DRAWINGS:
      draw().save(folder)


if __name__ == "__main__":
  draw_all(Path(__file__).parent / "_static")
