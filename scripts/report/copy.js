// Show each table's button. It copies the table as CSV, and says beside it whether that went well.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // There is no clipboard, or none for a page that is a file: copy a selection instead.
    const area = document.createElement("textarea");
    area.className = "unseen";
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

for (const place of document.querySelectorAll(".copy")) {
  const [button, told] = place.children;
  button.addEventListener("click", async () => {
    told.textContent = (await copy(button.dataset.csv)) ? "copied" : "not copied: the browser refuses";
    button.focus({ preventScroll: true }); // which a selection takes away
    setTimeout(() => (told.textContent = ""), 3000);
  });
  place.hidden = false;
}
