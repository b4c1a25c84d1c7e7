-- correct: each buyer locks a free place that nobody else has locked; a key that comes again gets its own place
-- scenario: stock

create unique index if not exists places_one_per_key on public.places (ticket_type_id, taken_by) where taken;

create or replace function public.claim_place(p_ticket_type_id uuid, p_key text)
  returns table (success boolean, place uuid, error_message text)
language plpgsql security definer set search_path = public as
$$
declare
  chosen uuid;
begin
  perform pg_advisory_xact_lock(hashtextextended(p_key, 0));
  select id into chosen from places where ticket_type_id = p_ticket_type_id and taken_by = p_key;
  if found then
    return query select true, chosen, null::text;
    return;
  end if;
  select id into chosen from places where ticket_type_id = p_ticket_type_id and not taken order by label limit 1 for update skip locked;
  if not found then
    return query select false, null::uuid,
      case when exists (select from places where ticket_type_id = p_ticket_type_id) then 'Sold out' else 'Not found' end;
    return;
  end if;
  update places set taken = true, taken_by = p_key, taken_at = clock_timestamp() where id = chosen;
  return query select true, chosen, null::text;
end
$$;

revoke execute on function public.claim_place from public, anon;
grant execute on function public.claim_place to authenticated, service_role;
