// The input of a sample: its text, or its messages one by one, each made of the page's template for
// one. A template's elements say by data-part what they are for: role, text, image.

const TITLES = { system: "System", user: "User", assistant: "Assistant" };

export function showInput(box, item, task) {
  const template = box.querySelector("template");
  if (!template) box.textContent = item.text;
  else {
    // Plain text is the one message of a user.
    const messages = item.messages ?? [{ role: "user", parts: [{ type: "text", text: item.text }] }];
    box.replaceChildren(template, ...messages.map((message) => rendered(template, message, item, task)));
  }
  box.scrollTop = 0;
}

function rendered(template, { role, parts }, item, task) {
  const node = template.content.cloneNode(true).firstElementChild;
  node.dataset.role = role;
  const slots = Object.fromEntries([...node.querySelectorAll("[data-part]")].map((slot) => [slot.dataset.part, slot]));
  if (slots.role) slots.role.textContent = TITLES[role];
  for (const part of parts) {
    const slot = slots[part.type]?.cloneNode(false);
    if (!slot) continue;
    if (part.type === "text") slot.textContent = part.text;
    else {
      slot.src = `/review/${task}/images/${part.sha256}?${new URLSearchParams({ sample: item.sample_id })}`;
      slot.width = part.width;
      slot.height = part.height;
    }
    node.insertBefore(slot, slots.text ?? slots.image);
  }
  for (const type of ["text", "image"]) slots[type]?.remove();
  return node;
}
