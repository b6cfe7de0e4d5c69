history.replaceState(null, "", document.currentScript.dataset.next);
document.querySelectorAll("[data-copies]").forEach((button) => button.addEventListener("click", async () => {
    const value = document.getElementById(button.dataset.copies);
    getSelection().selectAllChildren(value);
    // Browsers offer the clipboard on https and localhost only.
    if (navigator.clipboard) {
        await navigator.clipboard.writeText(value.textContent);
    } else {
        document.execCommand("copy");
    }
    button.textContent = "Copied";
}));
