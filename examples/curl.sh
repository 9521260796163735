#!/usr/bin/env bash
# The HTTP surface with curl, and a conversation in writing with wscat.
#
#   npm install wscat
#   export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
#   examples/curl.sh
set -euo pipefail

base=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
key=${OPENAI_API_KEY:-none}

echo "Models:"
curl --fail-with-body --silent --show-error "$base/models" --header "Authorization: Bearer $key"
echo

echo "A secret for somebody else's browser, good for ten minutes:"
secret=$(
  curl --fail-with-body --silent --show-error "$base/realtime/client_secrets" \
    --header "Authorization: Bearer $key" --header "Content-Type: application/json" --data '{
      "expires_after": {"anchor": "created_at", "seconds": 600},
      "session": {"type": "realtime", "output_modalities": ["text"], "instructions": "Answer in one sentence."}
    }' | sed -E 's/.*"value": *"(ek_[^"]+)".*/\1/'
)
echo "${secret:0:6}..."

# The session of the secret is the one of the connection: it answers in writing. Events come one per line.
echo "A question over a WebSocket:"
npx wscat --connect "${base/http/ws}/realtime?model=gpt-realtime" --header "Authorization: Bearer $secret" --wait "${WAIT_SECONDS:-8}" \
  --execute '{"type": "conversation.item.create", "item": {"type": "message", "role": "user",
    "content": [{"type": "input_text", "text": "What is the capital of France?"}]}}' \
  --execute '{"type": "response.create"}'
