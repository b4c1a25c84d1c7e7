-- broken: reads the ticket, works for 0.2 ms, then marks it; nothing is locked in between

drop index if exists public.scan_logs_one_admission;

create or replace function public.scan_ticket_atomic(
  p_ticket_id uuid, p_scanned_by uuid, p_device_id text, p_scan_method text
) returns table (success boolean, already_scanned boolean, scanned_at timestamptz, scanned_by uuid, error_message text)
language plpgsql security definer set search_path = public as
$$
#variable_conflict use_column
declare
  ticket tickets;
begin
  select * into ticket from tickets where id = p_ticket_id;
  if not found then
    return query select false, false, null::timestamptz, null::uuid, 'Ticket not found';
    return;
  end if;
  if ticket.is_used is distinct from false then
    insert into scan_logs (ticket_id, scan_result, scan_success, scan_method, device_id, scanned_by)
    values (p_ticket_id, 'already_scanned', false, p_scan_method, p_device_id, p_scanned_by);
    return query select false, true, ticket.scanned_at, ticket.scanned_by, 'Ticket already scanned';
    return;
  end if;
  perform pg_sleep(0.0002);
  update tickets set is_used = true, status = 'used', scanned_at = clock_timestamp(), scanned_by = p_scanned_by
   where id = p_ticket_id returning * into ticket;
  insert into scan_logs (ticket_id, scan_result, scan_success, scan_method, device_id, scanned_by, scanned_at)
  values (p_ticket_id, 'admitted', true, p_scan_method, p_device_id, p_scanned_by, ticket.scanned_at);
  return query select true, false, ticket.scanned_at, ticket.scanned_by, null::text;
end
$$;

revoke execute on function public.scan_ticket_atomic from public, anon;
grant execute on function public.scan_ticket_atomic to authenticated, service_role;
