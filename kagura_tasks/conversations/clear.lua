-- Forget a conversation.
-- KEYS: conversation
-- Returns how many turns there were.
local conversation = KEYS[1]
local count = redis.call('LLEN', conversation .. ':turns')
redis.call('DEL', conversation, conversation .. ':turns', conversation .. ':fallen', conversation .. ':ids')
return count
