// Two buttons under every table copy it. Without scripts the page lacks only these.
const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const escapes = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$" };
const escapeLatex = (text) => text.replace(/[\\~^±_%&#${}]/g, (x) => escapes[x] ?? "\\" + x);
const formats = {
  CSV: (lines) => lines.map((line) => line.map(quote).join(",") + "\n").join(""),
  LaTeX: (lines) => {
    const [head, ...body] = lines.map((line) => line.map(escapeLatex).join(" & ") + " \\\\\n");
    const columns = "l" + "r".repeat(lines[0].length - 1);
    return `\\begin{tabular}{${columns}}\n\\toprule\n${head}\\midrule\n${body.join("")}\\bottomrule\n\\end{tabular}\n`;
  },
};

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser that keeps the clipboard from files
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

for (const box of document.querySelectorAll(".scroll")) {
  const buttons = document.createElement("div");
  for (const [name, format] of Object.entries(formats)) {
    const button = buttons.appendChild(document.createElement("button"));
    button.textContent = `copy as ${name}`;
    button.onclick = async () => {
      const lines = [...box.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
      await copy(box.dataset[name.toLowerCase()] ?? format(lines));
      button.textContent = "copied";
      setTimeout(() => (button.textContent = `copy as ${name}`), 1500);
    };
  }
  box.after(buttons);
}
