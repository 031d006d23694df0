// Buttons that copy a table as CSV, and links that open a case in the viewer. A page from disk may use the clipboard.
const quoted = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
for (const table of document.querySelectorAll('table.copied')) {
  const button = Object.assign(document.createElement('button'),
    {type: 'button', className: 'copy', textContent: 'Copy as CSV'});
  table.parentElement.before(button);
  button.addEventListener('click', async () => {
    const csv = table.dataset.csv ?? [...table.rows].map(row => [...row.cells]
      .map(cell => quoted(cell.dataset.csv ?? cell.textContent)).join(',')).join('\n') + '\n';
    try {
      await navigator.clipboard.writeText(csv);
      button.textContent = 'Copied';
    } catch {
      const area = document.createElement('textarea');  // an older browser, or one that does not allow it
      area.value = csv;
      document.body.append(area);
      area.select();
      button.textContent = document.execCommand('copy') ? 'Copied' : 'Copying is not allowed here';
      area.remove();
    }
  });
}
for (const link of document.querySelectorAll('a[data-walk]')) {
  const viewer = document.querySelector('.viewer'), select = viewer?.querySelector('select');
  if (!select) { link.remove(); continue; }  // the picture is linked beside it
  link.addEventListener('click', event => {
    event.preventDefault();
    select.value = link.dataset.walk;
    select.dispatchEvent(new Event('change'));
    viewer.scrollIntoView();
    select.focus();
  });
}
