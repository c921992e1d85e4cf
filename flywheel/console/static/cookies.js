// A sign-in that the browser forgets at once would come back to this page without a word.
if (!navigator.cookieEnabled) document.getElementById("no-cookies").hidden = false;
