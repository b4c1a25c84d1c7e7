-- broken: counts the places that are taken and takes a free one; nothing is locked
-- scenario: stock

drop index if exists public.places_one_per_key;

create or replace function public.claim_place(p_ticket_type_id uuid, p_key text)
  returns table (success boolean, place uuid, error_message text)
language plpgsql security definer set search_path = public as
$$
declare
  chosen uuid;
begin
  perform from places where ticket_type_id = p_ticket_type_id having count(*) filter (where taken) < count(*);
  if not found then
    return query select false, null::uuid,
      case when exists (select from places where ticket_type_id = p_ticket_type_id) then 'Sold out' else 'Not found' end;
    return;
  end if;
  select id into chosen from places where ticket_type_id = p_ticket_type_id and not taken order by label limit 1;
  update places set taken = true, taken_by = p_key, taken_at = clock_timestamp() where id = chosen;
  return query select true, chosen, null::text;
end
$$;

revoke execute on function public.claim_place from public, anon;
grant execute on function public.claim_place to authenticated, service_role;
