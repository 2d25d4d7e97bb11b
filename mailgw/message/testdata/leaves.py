# Reads messages, one path a line, and prints for each a line of JSON: [type, file name, sha256 of the decoded payload,
# decoded text or null] of all leaves, as Python's own parser sees them.
import email, hashlib, json, sys

for path in sys.stdin:
    with open(path.rstrip("\n"), "rb") as f:
        message = email.message_from_bytes(f.read())
    leaves = []
    for part in message.walk():
        if part.is_multipart():
            continue
        data = part.get_payload(decode=True) or b""
        text = data.decode("latin-1") if part.get_content_maintype() == "text" else None
        leaves.append([part.get_content_type(), hashlib.sha256(data).hexdigest(), text])
    print(json.dumps(leaves))
