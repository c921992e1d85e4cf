// The way back after a session has ended. No page takes it by itself: somebody may be typing.

export function signInLink() {
  const link = document.createElement("a");
  link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = "Sign in again";
  return link;
}
