// What scrolls by itself can be reached by keyboard.
document$.subscribe(() => {
  for (const element of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    element.tabIndex = 0;
  }
});
