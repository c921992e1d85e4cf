// A click on a control whose module has not run yet, as on a slow line: the module takes it up.
window.early = { ready: false, control: null };
document.addEventListener("click", (event) => {
  const control = event.target.closest("[data-command]");
  if (control && !window.early.ready) window.early.control = control;
}, true);
